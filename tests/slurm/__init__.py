"""Against a real Slurm: three nodes with fake GPUs of two types, on this machine."""
