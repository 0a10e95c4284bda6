"""Processes of other users."""

import os
from pathlib import Path

import pytest

NOBODY = 65534

as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root may act for other users")


def reachable(path: Path) -> None:
    """Let every user pass the folders above `path`, which only their owner may pass otherwise."""
    for folder in path.parents:
        if folder.owner() == path.owner() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o011)
