"""`swiftfs` that asserts the ranks of its locks: `python checked_mount.py ARGS…`."""

import sys

from swiftfs import concurrency

if __name__ == "__main__":
    concurrency.check()
    from swiftfs.cli import app  # after the check, for the locks of modules

    app.main(sys.argv[1:])
