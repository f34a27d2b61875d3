"""Slurm: what it says of a cluster, and scripts for it. The only room that starts a Slurm command or writes #SBATCH."""
