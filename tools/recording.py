"""Records the picture of the README, a short session on a real Swift, as SVG: run by `./dev docs`."""

import io
import os
import tempfile
from pathlib import Path

from rich.console import Console

from swiftfs.demo.server import SwiftServer
from swiftfs.demo.tour import Tour

PICTURE = Path(__file__).parents[1] / "docs" / "mount.svg"

_CONTAINER = "photos"
_MOUNT = "mnt"
_TAKEN = 1_718_445_600
"""The time of the files, in seconds since the epoch: the picture must not change from day to day."""

_FILES = {"beach.jpg": 2_831_155, "harbour.jpg": 3_145_728, "film.mov": 41_943_040, "notes.txt": 1_204}


def main() -> None:
    """Record the session and write the picture if it has changed."""
    console = Console(
        file=io.StringIO(),
        record=True,
        width=96,
        highlight=False,
        force_terminal=True,
        color_system="truecolor",
    )
    with tempfile.TemporaryDirectory(prefix="swiftfs-recording-") as folder, SwiftServer() as server:
        work = Path(folder)
        (work / _MOUNT).mkdir()
        _make_files(work / "trip")
        tour = Tour(server, work / _MOUNT, work, console)
        tour.type("swift", "post", _CONTAINER)
        tour.type("swiftfs", "mount", _CONTAINER, _MOUNT, "--cache-dir", "cache")
        try:
            _session(tour)
        finally:
            tour.type("swiftfs", "umount", _MOUNT)
    # A fixed id: rich would derive one from the text, and a change would touch every line.
    picture = console.export_svg(title=f"swiftfs mount {_CONTAINER} {_MOUNT}", unique_id="swiftfs")
    if not PICTURE.exists() or PICTURE.read_text() != picture:
        PICTURE.write_text(picture)
        print(PICTURE)


def _session(tour: Tour) -> None:
    tour.say("Programs use the container as a folder")
    tour.type("cp", "-a", "trip", _MOUNT)
    tour.type("ls", "-go", "--time-style=long-iso", f"{_MOUNT}/trip")
    tour.say("flush returns when all of it is in Swift")
    tour.type("swiftfs", "flush", _MOUNT)
    tour.say("Every file is an ordinary object; a large one has segments beside the container")
    tour.type("swift", "list", _CONTAINER)
    tour.type("swift", "list")
    tour.say("A change inside a large file sends what changed")
    tour.server.reset_requests()
    tour.type(
        "dd",
        "if=/dev/zero",
        f"of={_MOUNT}/trip/film.mov",
        "bs=4k",
        "count=1",
        "seek=5000",
        "conv=notrunc",
        "status=none",
    )
    tour.type("swiftfs", "flush", _MOUNT)
    tour.count()


def _make_files(folder: Path) -> None:
    folder.mkdir()
    for name, size in _FILES.items():
        path = folder / name
        path.write_bytes(os.urandom(size))
        path.chmod(0o644)
        os.utime(path, (_TAKEN, _TAKEN))
    folder.chmod(0o755)
    os.utime(folder, (_TAKEN, _TAKEN))


if __name__ == "__main__":
    main()
