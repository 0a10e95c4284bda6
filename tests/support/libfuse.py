"""Which libfuse serves the mounts of a run: the variable TEST_FUSE says 2 or 3, else the default does."""

import os

from support.passthrough import binding

CHOICE = os.environ.get("TEST_FUSE", "")

OPTION = {"SWIFTFS_FUSE": CHOICE} if CHOICE else {}
"""The variable by which mounts are told."""


def is_libfuse3() -> bool:
    """Return whether the mounts are served by libfuse 3."""
    return binding().libfuse.version[0] == 3
