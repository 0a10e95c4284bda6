"""Runs commands of swiftfs as a user does."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile

from support.deadlines import within
from support.mounts import clean_environment
from support.warm_processes import NURSERY, Output, Process


def swiftfs(
    *words: object, environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `swiftfs` with no credentials but those of `environment`; return the finished process.

    The command's current folder is `folder`, or that of the test.
    """
    arguments = [str(word) for word in words]
    variables = {**clean_environment(), "COLUMNS": "200", **(environment or {})}
    with TemporaryFile("w+") as output, TemporaryFile("w+") as errors:
        process = start(arguments, variables, output, errors, folder)
        try:
            code = process.wait(within(120))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        output.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess(["swiftfs", *arguments], code, output.read(), errors.read())


def start(
    arguments: list[str],
    environment: Mapping[str, str],
    output: Output,
    errors: Output,
    folder: Path | None = None,
) -> Process:
    """Start `swiftfs` in `folder`, or in the test's current one; return the process."""
    if NURSERY.serves(environment):
        return NURSERY.fork(arguments, environment, output, errors, folder=folder)
    command = [sys.executable, "-m", "swiftfs", *arguments]
    return subprocess.Popen(command, env=environment, stdout=output, stderr=errors, cwd=folder)


def one_line(result: subprocess.CompletedProcess[str], code: int = 1) -> str:
    """Return the line on standard error with which a command failed; assert that it printed no other."""
    assert result.returncode == code, result
    assert result.stdout == ""
    assert result.stderr.startswith("swiftfs: ")
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr
