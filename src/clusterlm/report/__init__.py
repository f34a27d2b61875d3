"""A plan or a run as people and programs read it: text and JSON values."""
