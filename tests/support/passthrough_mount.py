"""A passthrough that is mounted in a child process, so that nothing in it can block pytest."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from support.deadlines import within
from support.warm_processes import NURSERY, Output, Process

PROGRAM = Path(__file__).with_name("passthrough.py")


class PassthroughMount:
    """A mounted passthrough of `root` in a child process, with more variables in its environment."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.root, self.path, self.control = folder / "root", folder / "mnt", folder / "control"
        for each in (self.root, self.path, self.control):
            each.mkdir(exist_ok=True)
        self._errors = folder / "stderr"
        reading, writing = os.pipe()
        self._output = os.fdopen(reading)
        with os.fdopen(writing, "wb") as output, self._errors.open("wb") as errors:
            self.process = self._start({**os.environ, **(environment or {})}, output, errors)
        if self._output.readline() != "live\n":
            self.close()
            pytest.fail("the child did not mount")

    def _start(self, environment: Mapping[str, str], output: Output, errors: Output) -> Process:
        words = [str(self.root), str(self.path), str(self.control)]
        if NURSERY.serves(environment):
            return NURSERY.fork(words, environment, output, errors, program=PROGRAM.stem)
        command = [sys.executable, str(PROGRAM), *words]
        return subprocess.Popen(command, env=environment, stdout=output, stderr=errors)

    def log(self) -> list[str]:
        return (self.control / "log").read_text().splitlines()

    def close(self) -> tuple[str, str]:
        """Unmount, check that the child ends well, and return its stdout and stderr."""
        subprocess.run(["fusermount", "-u", "-z", self.path], check=False, capture_output=True)
        out, err = self.wait()
        assert (self.process.returncode, err) == (0, "")
        return out, err

    def wait(self) -> tuple[str, str]:
        """Wait for the end of the child, and return its stdout and stderr; kill it if that takes too long."""
        try:
            self.process.wait(timeout=within(20))
        except subprocess.TimeoutExpired:
            subprocess.run(["fusermount", "-u", "-z", self.path], check=False, capture_output=True)
            raise
        finally:
            self.process.kill()
            self.process.wait()
            with self._output:
                out = self._output.read()
        return out, self._errors.read_text()
