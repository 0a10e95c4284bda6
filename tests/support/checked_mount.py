"""`swiftfs` that checks the order of its locks: `python checked_mount.py ARGS…`."""

import sys

from swiftfs import concurrency

if __name__ == "__main__":
    concurrency.check()
    from swiftfs.cli import app  # after check(), because modules make locks when they are imported

    app.main(sys.argv[1:])
