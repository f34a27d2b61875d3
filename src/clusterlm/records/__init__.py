"""Requests in, results out: reading input files, the append-only log of results, writing output files."""
