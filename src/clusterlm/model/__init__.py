"""A model as sizes, from its config.json alone: ModelShape, the architectures that it is read from, the catalogue."""
