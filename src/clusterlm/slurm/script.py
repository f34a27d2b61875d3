"""A job as a batch script in its site's own spelling, which a colleague can read and hand to sbatch alone."""

from __future__ import annotations

from clusterlm.cluster.profile import Cluster
from clusterlm.slurm.body import body
from clusterlm.slurm.header import header
from clusterlm.slurm.job import Job
from clusterlm.slurm.site_rules import refuse


def script(cluster: Cluster, job: Job) -> str:
    """UsageError where the site would refuse the job."""
    refuse(cluster, job)
    blocks = "\n\n".join("\n".join(lines) for lines in body(cluster, job) if lines)
    return f"#!/bin/bash\n{_comment(cluster, job)}\n{header(cluster, job)}\n\n{blocks}\n"


def _comment(cluster: Cluster, job: Job) -> str:
    unit = cluster.nodes[job.node_type].unit
    size = f"{job.nodes} x {job.gpus_per_node} {unit}{'s' if job.gpus_per_node > 1 else ''}"
    name = " ".join(job.name.split())
    memory = "" if cluster.request.memory or job.memory_gib is None else " The site sets the memory: no --mem."
    lines = [f"# {name}: {size} on {cluster.title}, written by clusterlm. Submit it with sbatch.{memory}"]
    if job.run is not None:
        lines.append("# It does what is missing of its run, and has itself continued where it is interrupted.")
    return "\n".join(lines)
