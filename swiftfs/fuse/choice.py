"""Which libfuse serves a mount."""

from contextlib import suppress

from swiftfs.errors import ConfigurationError
from swiftfs.fuse.binding import FUSE

NEITHER = (
    "neither libfuse 3 with the Python package mfusepy nor libfuse 2 is installed: apt install fuse3 libfuse2"
)


AUTO = ("2", "3")
"""What `auto` takes, the first that is installed."""


def load_binding(choice: str) -> type[FUSE]:
    """Return the binding on the libfuse of the option `fuse`: `2`, `3`, or `auto`.

    Raise `ConfigurationError` where it is not installed.
    """
    if choice != "auto":
        return _load(choice)
    for version in AUTO:
        with suppress(ConfigurationError):
            return _load(version)
    raise ConfigurationError(NEITHER)


def _load(version: str) -> type[FUSE]:
    # The library is loaded on import.
    if version == "3":
        from swiftfs.fuse.libfuse3 import FUSE3  # noqa: PLC0415

        return FUSE3
    from swiftfs.fuse.libfuse2 import FUSE2  # noqa: PLC0415

    return FUSE2
