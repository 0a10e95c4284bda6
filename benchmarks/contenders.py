"""What benchmarks compare: file systems mounted by processes, and the machine."""

import contextlib
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


class Endpoint(Protocol):
    """A Swift, and a user of it."""

    user: str
    key: str

    @property
    def auth_url(self) -> str: ...


MOUNT_SECONDS = 60
EXIT_SECONDS = 60


@dataclass(slots=True)
class Contender:
    """A process that serves a mount at `path` while its context is open."""

    name: str
    path: Path
    command: list[object]
    environment: Mapping[str, str]
    log: Path
    process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)

    def __enter__(self) -> "Contender":
        self.path.mkdir(parents=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(word) for word in self.command],
                env={**os.environ, **self.environment},
                stdout=log,
                stderr=log,
            )
        try:
            self._await_mount(self.process)
        except BaseException:
            self._kill()
            raise
        return self

    def _await_mount(self, process: "subprocess.Popen[bytes]") -> None:
        end = time.monotonic() + MOUNT_SECONDS
        while not self.path.is_mount():
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{self.name} did not mount: {self.log.read_text()}")
            time.sleep(0.02)

    def __exit__(self, *_: object) -> None:
        assert self.process is not None
        try:
            if subprocess.run(["fusermount", "-u", str(self.path)], check=False).returncode:
                self.process.terminate()
            self.process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            print(f"{self.name} does not end, and is killed", file=sys.stderr)
        finally:
            self._kill()
            sys.stderr.write(self.log.read_text())

    def _kill(self) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            subprocess.run(["fusermount", "-uz", str(self.path)], check=False)
            self.process.kill()
            self.process.wait()


def find_rclone() -> str | None:
    """Return the path of rclone, from this environment or the system, or None."""
    return shutil.which("rclone", path=str(Path(sys.executable).parent)) or shutil.which("rclone")


def rclone_environment(swift: Endpoint, work: Path) -> Mapping[str, str]:
    """Return the variables with which rclone has the server as `sw:` and finds a fusermount."""
    remote = {"TYPE": "swift", "AUTH": swift.auth_url, "USER": swift.user, "KEY": swift.key}
    return {
        "PATH": _path_for_rclone(work),
        "RCLONE_CONFIG": os.devnull,
        "RCLONE_CONFIG_SW_AUTH_VERSION": "1",
        **{f"RCLONE_CONFIG_SW_{name}": value for name, value in remote.items()},
    }


def _path_for_rclone(work: Path) -> str:
    """Return a PATH with the `fusermount3` that rclone needs; that of fuse 2 works too."""
    path = os.environ["PATH"]
    fusermount = shutil.which("fusermount")
    if shutil.which("fusermount3") or fusermount is None:
        return path
    programs = work / "programs"
    programs.mkdir(exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (programs / "fusermount3").symlink_to(fusermount)
    return f"{programs}:{path}"


def machine() -> str:
    """Return a description of this machine."""
    model = next(
        (
            line.partition(": ")[2]
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return f"{os.cpu_count()} CPUs {model}, Linux {platform.release()}, Python {platform.python_version()}"
