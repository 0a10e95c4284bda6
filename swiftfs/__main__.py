"""`python -m swiftfs` is the `swiftfs` command."""

from swiftfs.cli.app import main

main(prog_name="swiftfs")
