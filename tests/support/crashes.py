"""Crashes: mounts that die at a chosen step, the calls that they interrupt, and what must be left."""

import contextlib
import json
import os
import re
import stat
import subprocess
import time
from pathlib import Path
from urllib.parse import unquote

from swiftclient import ClientException, Connection

from support.crash_oracle import UNSHARED, CrashOracle, State, digest
from support.deadlines import within
from support.jobs import wait_until
from support.mounts import EXIT_SECONDS, READY_SECONDS, clean_environment
from support.noise import LARGE
from support.warm_processes import NURSERY, ForkedProcess
from swiftfs.attributes import parse_time
from swiftfs.demo.server import SwiftServer
from swiftfs.journal.segment_removal import LATE_SECONDS

DIRECTORY = "application/directory"

LEFTOVERS_SECONDS = 60


class KillableMount:
    """A mount of `container` whose process may die; `folder` has the cache and log of its processes.

    Not by `multiprocessing`: there each start of a process, in any thread, takes the exit codes of all others
    that have ended, and the thread that waits for one may get 255 for it.
    """

    def __init__(self, swift: SwiftServer, container: str, folder: Path, options: str) -> None:
        self.path = folder / "mnt"
        self.path.mkdir(parents=True)
        self.log = folder / "log"
        self._report = folder / "steps"
        self._cache = folder / "cache"
        self._environment = {**clean_environment(), **swift.environment()}
        self._words = ["mount", container, str(self.path), "--foreground", "--cache-dir", str(self._cache)]
        self._words += ["-o", options]
        self._process: ForkedProcess | None = None

    def start(self, last_step: int = 0, *, late_seconds: float = LATE_SECONDS) -> bool:
        """Mount; the process dies at step `last_step`, 0 is never. Return whether it is mounted.

        Segments that Swift may store late, or a late manifest may name, are deleted after `late_seconds`.
        """
        words = [str(self._cache), str(self._report), str(last_step), str(late_seconds), *self._words]
        outside = self.path.stat().st_dev
        with self.log.open("ab") as log:
            self._process = NURSERY.fork(words, self._environment, log, log, program="crashing_mount")
        end = time.monotonic() + within(READY_SECONDS)
        while self._process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(OSError):
                if self.path.stat().st_dev != outside:
                    return True
            time.sleep(0.005)
        assert self._process.poll() is not None, self.log.read_text()
        self._end()
        return False

    def stop(self) -> bool:
        """Unmount, and wait until all is in Swift; return whether the process has not died."""
        assert self._process is not None
        end = time.monotonic() + EXIT_SECONDS
        while self._process.poll() is None and time.monotonic() < end:
            _run("fusermount", "-u", self.path)  # it fails while the mount is in use
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.5)
        return self._end()

    def steps(self) -> list[str]:
        """Return the steps of the last process, a line each."""
        return self._report.read_text().splitlines()

    def problems(self) -> list[str]:
        """Return the log lines of a level above INFO."""
        lines = self.log.read_text().splitlines()
        return [line for line in lines if not line.startswith(("INFO:", "DEBUG:"))]

    def _end(self) -> bool:
        assert self._process is not None
        self._process.kill()  # does nothing if it has ended
        code = self._process.wait()
        self._process = None
        if os.path.ismount(self.path) or code:
            _run("fusermount", "-uz", self.path)
        assert code in (0, -9), f"exit code {code}: {self.log.read_text()}"
        return code == 0


def work(oracle: CrashOracle, aside: Path) -> None:
    """Make system calls of all kinds; raise `OSError` when the mount dies. `aside` is a local folder."""
    source = aside / "source"
    if not source.exists():
        _make_source(source)
    _small_files(oracle)
    _synchronize(oracle, source)
    _folders(oracle)
    _large_files(oracle)
    _attributes(oracle)
    _removals(oracle)


def _make_source(source: Path) -> None:
    (source / "sub").mkdir(parents=True)
    for number in range(4):
        file = source / ("sub" if number % 2 else "") / f"s{number}"
        file.write_bytes(b"synchronized %d" % number)
        os.utime(file, ns=(0, (1_500_000_000 + number) * 10**9))
    for folder in (source / "sub", source):
        os.utime(folder, ns=(0, 1_600_000_000 * 10**9))


def _small_files(oracle: CrashOracle) -> None:
    for number in range(3):
        oracle.write(f"small{number}", b"small %d" % number)
    oracle.write("small0", b"overwritten")
    oracle.write("small1", b" and more", offset=7)
    oracle.write("never", b"needed")
    oracle.unlink("never")
    oracle.rename("small2", "moved")
    oracle.rename("moved", "small0")


def _synchronize(oracle: CrashOracle, source: Path) -> None:
    """Do what rsync does, call by call, and then run rsync."""
    oracle.mkdir("mirror")
    for number in range(3):
        temporary, name = f"mirror/.f{number}.Xyz123", f"mirror/f{number}"
        oracle.write(temporary, b"mirrored %d" % number)
        oracle.touch(temporary, (1_400_000_000 + number) * 10**9)
        oracle.chmod(temporary, 0o640)
        oracle.rename(temporary, name)
    oracle.touch("mirror", 1_300_000_000 * 10**9)
    copied = {"synced": _copied(oracle, source)}
    copied |= {f"synced/{path.relative_to(source)}": _copied(oracle, path) for path in source.rglob("*")}
    oracle.run(lambda: _program("rsync", "-a", f"{source}/", oracle.root / "synced"), copied)


def _copied(oracle: CrashOracle, path: Path) -> State:
    found = path.stat()
    kind, holds = ("folder", "") if path.is_dir() else ("file", oracle.body(path.read_bytes()))
    return State(kind, holds, stat.S_IMODE(found.st_mode), found.st_mtime_ns)


def _folders(oracle: CrashOracle) -> None:
    oracle.mkdir("d")
    oracle.mkdir("d/e")
    oracle.write("d/e/file", b"deep")
    oracle.write("d/file", b"shallow")
    oracle.rename("d", "renamed")
    oracle.write("renamed/e/file", b"deeper")
    oracle.rename("renamed/e", "e")
    oracle.rename("mirror/f0", "e/f0")


def _large_files(oracle: CrashOracle) -> None:
    oracle.write("large", LARGE + b"and a fifth")
    oracle.write("large", b"appended" * 1000, offset=len(LARGE) + 11)
    oracle.write("large", b"patched", offset=1_500_000)
    oracle.write("large2", LARGE[:2_500_000])
    oracle.write("gone", LARGE[:1_200_000])
    oracle.rename("large2", "large3")
    oracle.unlink("gone")
    oracle.write("large3", b"small now")
    oracle.write("small1", LARGE[:1_100_000])


def _attributes(oracle: CrashOracle) -> None:
    oracle.chmod("small0", 0o600)
    oracle.touch("small0", 1_200_000_000_123_456_789)
    oracle.tag("small0", "user.color", b"blue")
    oracle.chmod("renamed", 0o700)
    oracle.symlink("link", "small0")
    oracle.rename("link", "link2")
    oracle.tag("large", "user.color", b"red")


def _removals(oracle: CrashOracle) -> None:
    oracle.unlink("link2")
    for path in ("renamed/file", "synced/s0", "e/file"):
        oracle.unlink(path)
    oracle.rmdir("renamed")
    gone = dict.fromkeys(oracle.below("mirror"))
    oracle.run(lambda: _program("rm", "-rf", oracle.root / "mirror"), gone)
    oracle.mkdir("mirror")
    oracle.write("mirror/f1", b"again")
    oracle.write("never", b"needed after all")


def _program(*words: object) -> None:
    """Run a program; raise `OSError` if it fails, as it does when the mount dies."""
    code, errors = _run(*words)
    if code:
        raise OSError(f"{words}: {errors}")


def _run(*words: object) -> tuple[int, str]:
    """Run a program; return its exit code and its standard error."""
    command = [str(word) for word in words]
    with UNSHARED:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    with process:
        errors = process.communicate()[1]
    return process.returncode, errors


def stored_states(client: Connection, container: str) -> dict[str, State]:
    """Return the state of each path that a container holds; folders without a marker too."""
    states: dict[str, State] = {}
    for row in client.get_container(container, full_listing=True)[1]:
        headers, body = client.get_object(container, row["name"])
        parameters = dict(re.findall(r";\s*(\w+)=([^;]*)", row["content_type"]))
        mtime_ns = parse_time(headers.get("x-object-meta-mtime"))
        tags = tuple(
            (f"user.{name.removeprefix('x-object-meta-')}", unquote(value).encode())
            for name, value in sorted(headers.items())
            if re.fullmatch(r"x-object-meta-(?!mtime|mode|uid|gid).*", name)
        )
        if row["content_type"] == DIRECTORY:
            mode = headers.get("x-object-meta-mode")
            state = State("folder", "", stat.S_IMODE(int(mode, 8)) if mode else None, mtime_ns, tags)
        elif row["content_type"].startswith("inode/symlink"):
            state = State("link", body.decode())
        else:
            mode = stat.S_IMODE(int(parameters["mode"], 8))
            assert parse_time(parameters["mtime"]) == mtime_ns, row
            state = State("file", digest(body), mode, mtime_ns, tags)
        assert row["bytes"] == len(body), row
        states[row["name"]] = state
    for path in list(states):
        for parent in Path(path).parents[:-1]:
            states.setdefault(str(parent), State("folder"))
    return states


def orphans(client: Connection, container: str) -> set[str]:
    """Return the keys of the segments of a container that no manifest names."""
    try:
        segments = {
            row["name"] for row in client.get_container(f"{container}_segments", full_listing=True)[1]
        }
    except ClientException:
        return set()
    for row in client.get_container(container, full_listing=True)[1]:
        if "slo=" in row["content_type"]:
            manifest = client.get_object(container, row["name"], query_string="multipart-manifest=get")[1]
            segments -= {segment["name"].split("/", 2)[2] for segment in json.loads(manifest)}
    return segments


def late_orphans(mount: KillableMount, swift: SwiftServer, client: Connection, container: str) -> set[str]:
    """Return the segments that no manifest names, and a mount ten minutes later leaves without a word.

    Swift may have stored some after a mount had died and the next one had looked, and others wait for a
    manifest that the dead mount may have sent.
    """
    if not orphans(client, container):
        return set()
    # By then a busy Swift has stored all that was sent: this mount looks only once.
    wait_until(lambda: all(one.seconds for one in swift.requests() if container in one.path))
    assert mount.start(late_seconds=0.0), mount.log.read_text()
    end = time.monotonic() + within(LEFTOVERS_SECONDS)
    while (left := _unexplained(mount, client, container)) and time.monotonic() < end:
        time.sleep(0.1)
    assert mount.stop(), mount.log.read_text()
    return left


def _unexplained(mount: KillableMount, client: Connection, container: str) -> set[str]:
    """Return the orphans but those of which the log says that they stay.

    A mount that died after it had sent the deletion of a large file does not know whether another client has
    renamed the file instead: see docs/durability.md.
    """
    left = orphans(client, container)
    for count, key in re.findall(
        rf"(\d+) segments stay, .* renamed {container}/(.+): ", mount.log.read_text()
    ):
        of_file = {segment for segment in left if segment.startswith(f"{key}/")}
        left -= of_file if len(of_file) == int(count) else set()
    return left


def wipe(client: Connection, container: str) -> None:
    """Delete a container with its objects and segments."""
    for name in (container, f"{container}_segments"):
        with contextlib.suppress(ClientException):
            for row in client.get_container(name, full_listing=True)[1]:
                client.delete_object(name, row["name"])
            client.delete_container(name)
