"""Runs commands of swiftfs as a user does."""

import subprocess
import sys
from collections.abc import Mapping

from support.deadlines import within
from support.mounts import clean_environment


def swiftfs(*words: object, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `swiftfs` with no credentials but those of `environment`; return the finished process."""
    command = [sys.executable, "-m", "swiftfs", *map(str, words)]
    return subprocess.run(
        command,
        env={**clean_environment(), "COLUMNS": "200", **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=within(120),
    )


def one_line(result: subprocess.CompletedProcess[str], code: int = 1) -> str:
    """Return the line on standard error with which a command failed; assert that it printed no other."""
    assert result.returncode == code, result
    assert result.stdout == ""
    assert result.stderr.startswith("swiftfs: ")
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr
