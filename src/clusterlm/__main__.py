"""`python -m clusterlm` is `clusterlm`."""

from clusterlm.cli.main import main

main(prog_name="clusterlm")
