"""`python -m swiftfs` is the `swiftfs` command."""

from swiftfs.cli import main

main(prog_name="swiftfs")
