"""The `swiftfs` command, and `python -m swiftfs`."""

import sys


def main() -> None:
    """Run the command line; a Ctrl-C while it is still loaded ends it as later ones do."""
    try:
        from swiftfs.cli.app import main as run  # noqa: PLC0415  this takes most of the time of a command
    except KeyboardInterrupt:
        sys.exit("swiftfs: interrupted")
    run(prog_name="swiftfs")


if __name__ == "__main__":
    main()
