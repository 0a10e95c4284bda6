"""The kernel's side: libfuse 2 by fusepy, libfuse 3 by mfusepy, and the boundary that only errnos pass."""

from typing import TYPE_CHECKING

from swiftfs.errors import ConfigurationError

if TYPE_CHECKING:
    from swiftfs.fuse.binding import FUSE

NEITHER = (
    "neither libfuse 3 with the Python package mfusepy nor libfuse 2 is installed: apt install fuse3 libfuse2"
)


def load_binding(choice: str) -> "type[FUSE]":
    """Return the binding of the option `fuse`: `2`, `3`, or `auto`; raise `ConfigurationError` without it."""
    if choice != "2":
        try:
            from swiftfs.fuse.libfuse3 import FUSE3  # noqa: PLC0415  this loads the library
        except ConfigurationError:
            if choice == "3":
                raise
        else:
            return FUSE3
    try:
        from swiftfs.fuse.libfuse2 import FUSE2  # noqa: PLC0415  this loads the library
    except ConfigurationError as error:
        raise error if choice == "2" else ConfigurationError(NEITHER) from error
    return FUSE2
