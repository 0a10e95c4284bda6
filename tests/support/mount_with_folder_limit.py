"""`swiftfs` whose folders end earlier: `python mount_with_folder_limit.py BYTES ARGS…`."""

import sys

from swiftfs import concurrency

if __name__ == "__main__":
    concurrency.check()
    # After check(), because modules make locks when they are imported.
    from swiftfs.cli import app
    from swiftfs.namespace import listing_fetcher

    listing_fetcher.FOLDER_BYTES = int(sys.argv[1])
    app.main(sys.argv[2:])
