"""`swiftfs` that checks the order of its locks: `python checked_mount.py ARGS…`.

Replaced segments are deleted at once, so that a test can look for them.
"""

import faulthandler
import sys

from swiftfs import concurrency

if __name__ == "__main__":
    faulthandler.enable()
    concurrency.check()
    # After check(), because modules make locks when they are imported.
    from swiftfs.cli import app
    from swiftfs.journal import segment_records

    segment_records.REST_SECONDS = 0.0

    app.main(sys.argv[1:])
