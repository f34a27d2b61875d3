"""Lab: a real Slurm cluster on this one machine, with several nodes and GPUs that are only pretended."""

from clusterlm.slurm.lab.cluster import Lab, NodeStatus, Status, find_lab, lab_status, running_lab, start_lab
from clusterlm.slurm.lab.place import default_folder

__all__ = ["Lab", "NodeStatus", "Status", "default_folder", "find_lab", "lab_status", "running_lab", "start_lab"]
