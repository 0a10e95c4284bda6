"""Local trees of small files, for tests and the benchmark that count requests."""

import os
from pathlib import Path

FOLDERS = 41
"""Of a tree of 36 files or more, its top included."""
MTIME_NS = 1_700_000_000_123_456_789


def make_tree(top: Path, files: int) -> int:
    """Make small files with one mtime; return the number of folders, `top` included."""
    for number in range(files):
        folder = top / f"part{number % 4}" / f"sub{number % 36:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"file{number:03d}").write_bytes(f"number {number}\n".encode())
    same_times(top)
    return 1 + sum(path.is_dir() for path in top.rglob("*"))


def same_times(top: Path) -> None:
    """Give `top` and all below it the same mtime and ordinary modes."""
    for path in [*top.rglob("*"), top]:
        path.chmod(0o755 if path.is_dir() else 0o644)
        os.utime(path, ns=(MTIME_NS, MTIME_NS))
