"""`clusterlm`: the commands together, and how errors are shown."""

from __future__ import annotations

import os
import sys

import click

from clusterlm.cli.chat import chat
from clusterlm.cli.clusters import clusters
from clusterlm.cli.demo import demo
from clusterlm.cli.generate import generate
from clusterlm.cli.job import job
from clusterlm.cli.lab import lab
from clusterlm.cli.plan import plan
from clusterlm.cli.runs import runs
from clusterlm.cli.train import train
from clusterlm.errors import ClusterlmError
from clusterlm.version import __version__


class Commands(click.Group):
    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except ClusterlmError as problem:
            click.echo(f"{click.style('error:', fg='red')} {problem}", err=True)
            ctx.exit(problem.exit_code)
        except BrokenPipeError:
            # The reader of our output has seen enough (`| head`); what is still buffered must not raise at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="clusterlm %(version)s")
def main() -> None:
    """Run large language models on a laptop or a Slurm supercomputer, with nothing lost.

    \b
    Exit status: 0 done; 1 something to mend (the message says what); 2 wrong usage;
    3 done, but some records failed, or a plan that does not fit; 128 + signal: interrupted, the same command continues.
    """


main.add_command(plan)
main.add_command(generate)
main.add_command(chat)
main.add_command(train)
main.add_command(runs)
main.add_command(job)
main.add_command(clusters)
main.add_command(lab)
main.add_command(demo)
