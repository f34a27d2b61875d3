"""How long planning itself takes: all ways of a 70B model on a cluster of 100 nodes, and the whole catalogue.

python -m benchmarks.planning [--catalogue]: milliseconds, each the median of several runs in one process, start-up left
out (benchmarks.startup_plan has that). There is no peer: no other tool answers for a cluster.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

from clusterlm.cluster import Cluster
from clusterlm.cluster.files import find_cluster, shipped_clusters
from clusterlm.errors import ClusterlmError
from clusterlm.model.catalogue import catalogue_names
from clusterlm.model.find import find_model
from clusterlm.planning.candidates import Search
from clusterlm.planning.planner import Plan, plan
from clusterlm.planning.wishes import Wishes

RUNS = 7
MODEL = "meta-llama/Llama-3.1-70B"
TASKS = {
    "generate": Wishes(),
    "generate, vLLM": Wishes(engine="vllm"),
    "embed": Wishes(task="embed"),
    "LoRA": Wishes(method="lora"),
    "full": Wishes(method="full"),
}


def hundred_nodes(name: str) -> Cluster:
    site = find_cluster(name)
    return replace(site, nodes={key: replace(node, count=100) for key, node in site.nodes.items()})


def milliseconds(work: Callable[[], Plan]) -> tuple[float, Plan]:
    """Each run begins with nothing remembered but the model's shape."""
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        found = work()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times), found


def one_cluster() -> None:
    shape = find_model(MODEL)
    for site in ("lumi", "snellius"):
        cluster = hundred_nodes(site)
        for task, wishes in TASKS.items():
            took, found = milliseconds(lambda cluster=cluster, wishes=wishes: plan(Search(shape), cluster, wishes))  # type: ignore[misc]
            ways = f"{len(found.candidates)} ways, {len(found.rejected)} kinds that cannot be"
            print(f"{MODEL}, 100 nodes like {site}'s, {task}: {took:.0f} ms, {ways}")


def whole_catalogue() -> None:
    clusters = [find_cluster(name) for name in shipped_clusters() if name != "generic"]
    start, plans = time.perf_counter(), 0
    for name in catalogue_names():
        try:
            search = Search(find_model(name))
        except ClusterlmError:
            continue
        for cluster in clusters:
            try:
                plan(search, cluster, Wishes())
            except ClusterlmError:  # an encoder writes no text
                continue
            plans += 1
    took = time.perf_counter() - start
    print(
        f"the catalogue x {len(clusters)} clusters: {plans:,} plans in {took:.1f} s, {1000 * took / plans:.1f} ms each"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--catalogue", action="store_true", help="the whole catalogue too: about a minute")
    chosen = parser.parse_args()
    one_cluster()
    if chosen.catalogue:
        whole_catalogue()
    return 0


if __name__ == "__main__":
    sys.exit(main())
