"""`clusterlm clusters`: what is known of the clusters that jobs can be planned for."""

from __future__ import annotations

import json

import click

from clusterlm.cli.probe import probe


@click.group()
def clusters() -> None:
    """The clusters there are: nodes, partitions, limits, storage, and where each fact is from."""


@clusters.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON list.")
def list_(as_json: bool) -> None:
    """All clusters by name, your own and those that come with clusterlm; retired ones last."""
    from clusterlm.cluster import known_clusters, readable_clusters, shipped_clusters
    from clusterlm.report.clusters import cluster_summary, clusters_table

    shipped, paths = shipped_clusters(), known_clusters()
    readable, broken = readable_clusters()
    summaries = [
        cluster_summary(cluster, paths[name], own=shipped.get(name) != paths[name])
        for name, cluster in readable.items()
    ]
    if as_json:
        click.echo(json.dumps(summaries, indent=2))
    else:
        click.echo(clusters_table(summaries))
        click.echo("?: facts that no source that was read confirms; clusterlm clusters show NAME marks them", err=True)
    for problem in broken:
        click.echo(f"left out: {problem}", err=True)


@clusters.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def show(name: str, as_json: bool) -> None:
    """All about one cluster; NAME is in the list, or the path of a file."""
    from clusterlm.cluster import find_cluster, path_of_cluster
    from clusterlm.report.clusters import cluster_json, cluster_text

    cluster = find_cluster(name)
    if as_json:
        click.echo(json.dumps(cluster_json(cluster, path_of_cluster(name)), indent=2))
    else:
        click.echo(cluster_text(cluster))


clusters.add_command(probe)
