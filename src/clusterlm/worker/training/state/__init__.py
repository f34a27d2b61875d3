"""What is kept: checkpoints, written whole, found again, and carried over to other numbers of processes."""
