"""`swiftfs` whose folders end earlier: `python mount_with_folder_limit.py BYTES ARGS…`."""

import sys

from swiftfs import concurrency


def serve(most: str, *arguments: str) -> None:
    """Run the command; the names of one folder take `most` bytes."""
    # After check(), because modules make locks when they are imported.
    from swiftfs.cli import app  # noqa: PLC0415
    from swiftfs.namespace import listing_fetcher  # noqa: PLC0415

    listing_fetcher.FOLDER_BYTES = int(most)
    app.main(list(arguments))


if __name__ == "__main__":
    concurrency.check()
    serve(*sys.argv[1:])
