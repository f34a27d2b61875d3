"""Memory of a run, and whether it fits: pure arithmetic on sizes; no torch, no network."""
