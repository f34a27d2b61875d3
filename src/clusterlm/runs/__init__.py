"""A run's life: its folder, what was asked, what happened, how far it is."""
