"""Runs rclone, another client."""

import os
import sys
from pathlib import Path

from support.mounts import clean_environment, run
from swiftfs.demo.server import SwiftServer

RCLONE = Path(sys.executable).parent / "rclone"


def rclone(swift: SwiftServer, *words: object) -> str:
    """Run rclone with the remote `sw:`, the test's Swift; return what it prints."""
    remote = {
        "TYPE": "swift",
        "AUTH": swift.auth_url,
        "USER": swift.user,
        "KEY": swift.key,
        "AUTH_VERSION": 1,
    }
    configuration = {f"RCLONE_CONFIG_SW_{name}": str(value) for name, value in remote.items()}
    environment = {**clean_environment(), **configuration, "RCLONE_CONFIG": os.devnull}
    return run(RCLONE, "--retries", 1, *words, environment=environment)
