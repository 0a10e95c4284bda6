"""`swiftfs version`: the versions that a bug report must name."""

import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, requires, version

import click

from swiftfs import __version__
from swiftfs.control.mount_table import fusermount
from swiftfs.fuse.library import libfuse2, libfuse3

NONE = "not installed"

_OF_USERS = re.compile("extra == .(clouds|fuse3).")


def run() -> None:
    """Print the versions, a line each."""
    for name, text in versions().items():
        click.echo(f"{name} {text}")


def versions() -> dict[str, str]:
    """Return the versions by name: of swiftfs, the system and the libraries that swiftfs depends on."""
    return {
        "swiftfs": __version__,
        "python": platform.python_version(),
        "linux": platform.release(),
        "libfuse2": libfuse2() or NONE,
        "libfuse3": libfuse3() or NONE,
        "fusermount": _fusermount(),
        **{name: _installed(name) for name in _libraries()},
    }


def _fusermount() -> str:
    if (command := fusermount()) is None:
        return NONE
    result = subprocess.run([command, "--version"], capture_output=True, text=True, check=False)
    return result.stdout.rpartition(": ")[2].strip() or "unknown"


def _libraries() -> list[str]:
    """Return the names of the required libraries, and of those that `--os-cloud` and libfuse 3 need."""
    needed = (line for line in requires("swiftfs") or [] if ";" not in line or _OF_USERS.search(line))
    return sorted(match[0] for line in needed if (match := re.match(r"[\w.-]+", line)))


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return NONE
