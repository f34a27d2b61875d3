"""Causes for which runs end badly, and how they show in a log."""
