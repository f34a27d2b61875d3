"""What runs on the compute node: the only place that may import torch and its family."""
