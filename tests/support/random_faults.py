"""Random faults, outages, kills and remounts, while the workers of a stress test use a mount."""

import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from http import HTTPStatus
from pathlib import Path

from msgspec.structs import asdict
from swiftclient import ClientException, Connection

from support import stress
from support.crash_oracle import State, States, differences
from support.deadlines import within
from support.load import SHARED
from support.mounts import Mount, clean_environment
from support.uncertain_oracle import is_dead, shortest
from swiftfs.control.client import retry
from swiftfs.demo.server import Fault, SwiftServer

STUCK_SECONDS = 200
"""Longest time of a single step: a write waits two minutes for disk space, and fsync 50 s for Swift."""

SILENCE = 21.0
"""Seconds without an answer after which requests of most kinds have failed."""

STACK_CHARACTERS = 5000
"""How much is shown of the stacks of a mount that has ended by itself."""

SHOWN_LINES = 50
"""How many log lines are shown about a path that is wrong."""

WAITING = re.compile(" (waits|pauses) *$")
ENDED = re.compile(" ends *$")
"""The last step that a worker logs when it waits, or has ended."""

SPARED = rf"^(?!.*{stress.STORED_LOOK})"
"""The path pattern of each fault begins so: the workers' checks of stored objects are never hit."""

BRIEF_FAULTS = (
    Fault(path=SPARED, status=503),
    Fault(path=SPARED, status=500),
    Fault(path=SPARED, reset=True),
    Fault(path=SPARED, delay=1.2),
    Fault(path=SPARED, status=500, after=True),
    Fault(path=SPARED, reset=True, after=True),
    Fault(path=SPARED, reset=True, accept_body=20_000),
    Fault(path=SPARED, truncate_body=100),
)
"""Faults of a few requests, whose method is chosen at random."""

METHODS = ("PUT", "PUT", "COPY", "DELETE", "POST", "GET", "HEAD", "")

OBJECT = rf"{SPARED}/v1/[^/]+/[^/]+/"
"""Begins the pattern of a fault that hits objects only: a mount that may not make a container puts segments
elsewhere."""

REFUSALS = (
    Fault("PUT", OBJECT, status=413),
    Fault("PUT", OBJECT, status=403),
    Fault("PUT", rf"{OBJECT}.*multipart-manifest=put", status=413),
    Fault("COPY", OBJECT, status=413),
    Fault("COPY", OBJECT, status=403),
)
"""Final refusals, for some seconds: pending changes are parked, and a move fails."""


def exit_status_of(mount: Mount) -> int:
    """Return the exit code, or the negative signal, that ended a mount's process; 0 while it runs."""
    return mount.poll() or 0


class WorkerGroup:
    """The workers of a stress test, in processes of their own, and a watchdog over them."""

    def __init__(self, mount: Mount, workers: int, seed: int) -> None:
        self._mount = mount
        self._reports = mount.path.parent / "reports"
        self._reports.mkdir()
        self._workers = workers
        self._epoch = 0
        self.counts: Counter[str] = Counter()
        """How many steps the workers have made, and which did not succeed, in the end."""
        self._progress: dict[Path, tuple[float, str]] = {}
        self._next_epoch()
        words = [mount.path, self._reports, mount.log, workers, seed]
        environment = {**clean_environment(), **mount.swift.environment(), "STRESS_SOURCE": mount.source}
        environment["STRESS_WITHOUT"] = os.environ.get("SWIFTFS_STRESS_WITHOUT", "")
        environment["PYTHONPATH"] = str(Path(stress.__file__).parents[1])
        self._process = subprocess.Popen(
            [sys.executable, "-m", stress.__name__, *map(str, words)], start_new_session=True, env=environment
        )
        self.wait_until(lambda: len(self._last_steps()) == workers)

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Return when a condition holds; fail if a worker has found a difference, or is stuck."""
        while not condition():
            self._check_progress()
            time.sleep(0.05)

    def work(self, seconds: float) -> None:
        """Let the workers work for so many seconds."""
        end = time.monotonic() + seconds
        self.wait_until(lambda: time.monotonic() > end)

    def pause(self) -> None:
        """Let all workers wait, with no file open."""
        (self._reports / "pause").touch()
        self.wait_until_idle()

    def wait_until_idle(self) -> None:
        """Return when every worker waits for a mount, or has ended."""
        self.wait_until(
            lambda: all(WAITING.search(text) or ENDED.search(text) for text in self._last_steps())
        )

    def resume(self) -> None:
        """Let the waiting workers continue."""
        (self._reports / "pause").unlink(missing_ok=True)
        self._next_epoch()
        self.wait_until(lambda: not any(WAITING.search(text) for text in self._last_steps()))

    def end(self) -> list[list[dict[str, State]]]:
        """End all workers; return the possible states of each one's files, first what the mount shows."""
        (self._reports / "stop").touch()
        self.wait_until(lambda: self._process.poll() is not None)
        self._check_progress()
        assert self._process.returncode == 0
        oracles = []
        for number in range(self._workers):
            path = self._reports / f"w{number}.json"
            left = json.loads(path.read_text())
            oracles.append([_states(one) for one in left.pop("states")])
            self.counts.update(left)
        print(f"in the end: {dict(self.counts)}, {sum(len(one[0]) for one in oracles)} paths")
        return oracles

    def kill(self) -> None:
        """Kill all workers."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _next_epoch(self) -> None:
        self._epoch += 1
        new = self._reports / "epoch.new"
        new.write_text(str(self._epoch))
        new.rename(self._reports / "epoch")

    def _last_steps(self) -> list[str]:
        # A worker may be writing it: half a character is no error.
        return [path.read_text(errors="replace").rstrip("\n") for path in self._reports.glob("*.now")]

    def _check_progress(self) -> None:
        death = exit_status_of(self._mount)
        if death not in {0, -signal.SIGKILL}:
            log = self._mount.log.read_text()
            stacks = log[log.find("Fatal") :][:STACK_CHARACTERS]
            raise AssertionError(f"the mount has ended by {death}: {stacks}")
        errors = [f"{path.stem}: {path.read_text()}" for path in self._reports.glob("*.error")]
        assert not errors, "\n".join([*errors, *histories(self._mount.log, errors)])
        now = time.monotonic()
        for path in self._reports.glob("*.now"):
            text = path.read_text(errors="replace").rstrip("\n")  # it may be cut within a character
            since, before = self._progress.get(path, (now, ""))
            self._progress[path] = (since if text == before else now, text)
            is_at_work = not (WAITING.search(text) or ENDED.search(text))
            if is_at_work and now - self._progress[path][0] > within(STUCK_SECONDS):
                self._abort_mount(text)

    def _abort_mount(self, text: str) -> None:
        """Let the mount write the stacks of all threads to its log (faulthandler), and fail."""
        os.kill(self._mount.pid, signal.SIGABRT)
        self.kill()
        self._mount.exit_code = -signal.SIGABRT
        raise AssertionError(f"stuck: {text.strip()}\n{self._mount.log.read_text()[-50_000:]}")


class RandomFaults:
    """Faults of a mount and its Swift, chosen at random; each mount has the options of one of `variants`."""

    def __init__(
        self, swift: SwiftServer, mount: Mount, workers: WorkerGroup, seed: int, variants: Sequence[str]
    ) -> None:
        self._swift = swift
        self._mount = mount
        self._workers = workers
        # "storm" is a part of the seed: another word would change every run.
        self._random = random.Random(f"storm {seed}")
        self._variants = variants
        self.counts: Counter[str] = Counter()
        self.abandoned: set[str] = set()
        """Prefixes of segments that no journal knows any more, because the cache folder was deleted."""

    def run(self, seconds: float) -> None:
        """Cause one fault after the other for so many seconds; none is left in the end."""
        events: list[tuple[Callable[[], object], int]] = [
            (self._no_faults, 5),
            (self._brief_faults, 5),
            (self._time_out, 1),
            (self._one_method_fails, 3),
            (self._refuse, 2),
            (self._outage, 2),
            (self._kill, 3),
            (self._kill_during_faults, 3),
            (self._kill_in_outage, 1),
            (self._remount, 1),
        ]
        calls, weights = zip(*events, strict=True)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            call = self._random.choices(calls, weights)[0]
            self.counts[call.__name__.strip("_")] += 1
            self._log(f"{call.__name__.strip('_').replace('_', ' ')}")
            call()
        self._swift.clear_faults()

    def _log(self, text: str) -> None:
        with self._mount.log.open("a") as log:
            log.write(f"INFO: faults {time.monotonic():.3f} {text}\n")

    def _work(self, least: float, most: float) -> None:
        self._workers.work(self._random.uniform(least, most))

    def _no_faults(self) -> None:
        self._work(1, 5)

    def _inject_some(self) -> None:
        for _ in range(self._random.randint(1, 5)):
            fault = self._random.choice(BRIEF_FAULTS)
            chosen = {"method": self._random.choice(METHODS), "times": self._random.randint(1, 3)}
            self._inject(Fault(**{**asdict(fault), **chosen}))

    def _inject(self, fault: Fault) -> None:
        words = {name: value for name, value in asdict(fault).items() if value and name != "path"}
        self._log(f"injects {words} {fault.path.removeprefix(SPARED)}")
        self._swift.inject(fault)

    def _brief_faults(self) -> None:
        self._inject_some()
        self._work(1, 5)
        self._swift.clear_faults()

    def _one_method_fails(self) -> None:
        self._inject(Fault(self._random.choice(METHODS[:-1]), SPARED, status=503))
        self._work(1, 8)
        self._swift.clear_faults()

    def _time_out(self) -> None:
        """Leave one request without an answer for longer than any client waits, and do not execute it."""
        self._inject(Fault(self._random.choice(METHODS), SPARED, reset=True, delay=SILENCE, times=1))
        self._work(0, 5)
        self._swift.clear_faults()

    def _refuse(self) -> None:
        self._inject(self._random.choice(REFUSALS))
        self._work(2, 6)
        self._swift.clear_faults()
        if not is_dead(self._mount.path):
            retry(self._mount.path)

    def _outage(self) -> None:
        self._swift.kill()
        self._work(0.5, 8)
        self._log("server starts")
        self._swift.start()

    def _kill(self) -> None:
        self._work(0, 3)
        self._kill_and_mount()

    def _kill_during_faults(self) -> None:
        self._inject_some()
        self._work(0, 5)
        self._kill_and_mount()

    def _kill_in_outage(self) -> None:
        self._swift.kill()
        self._work(0, 6)
        self._kill_and_mount()

    def _kill_and_mount(self) -> None:
        """Kill the mount, and mount again when Swift has executed what the killed one had sent."""
        os.kill(self._mount.pid, signal.SIGKILL)
        self._log("killed")
        self._mount.exit_code = -signal.SIGKILL
        self._workers.wait_until_idle()
        self._swift.start()
        self._swift.clear_faults()
        self._workers.wait_until(lambda: all(one.seconds for one in self._swift.requests()))
        self._mount.stop()
        self._mount.exit_code = 0
        self._mount.options = self._random.choice(self._variants)
        self._save_journal_and_requests()
        self._delete_rows_without_object()
        self._log("mounts")
        self._mount.start()
        self._log("mounted")
        self._workers.resume()

    def _save_journal_and_requests(self) -> None:
        """Save the journal that the next mount finds, and the requests of the killed one."""
        self.counts["kills"] += 1
        folder = self._mount.path.parent / f"kill{self.counts['kills']}"
        folder.mkdir()
        for path in self._mount.cache.glob("journal.sqlite*"):
            shutil.copy(path, folder)
        requests = self._swift.requests()
        self.counts["requests before kills"] += len(requests)
        lines = [
            f"{one.method} {one.path}?{one.query} {one.status} {one.bytes_in} {one.seconds:.3f} "
            f"{one.headers.get('Destination', '')}{one.headers.get('If-Match', '')}\n"
            for one in requests
        ]
        (folder / "requests").write_text("".join(lines))
        self._swift.reset_requests()

    def _delete_rows_without_object(self) -> None:
        """Delete rows whose object does not exist; no client is at work now.

        A Swift that is killed between the deletion of an object and that of its row keeps the row,
        unless the client repeats its DELETE, and the client was killed too.
        """
        swift, container = self._swift, self._mount.source.partition("/")[0]
        with closing(Connection(swift.auth_url, swift.user, swift.key, retries=0)) as client:
            _, rows = client.get_container(container, full_listing=True)
            for name in [row["name"] for row in rows]:
                try:
                    client.head_object(container, name)
                except ClientException as error:
                    if error.http_status != HTTPStatus.NOT_FOUND:
                        raise
                    self.counts["rows without object"] += 1
                    with suppress(ClientException):  # 404, as expected
                        client.delete_object(container, name)

    def _remount(self) -> None:
        """Unmount, and mount again with the same or with an empty cache folder."""
        self._workers.pause()
        self._mount.options = self._random.choice(self._variants)
        self._mount.stop()
        if self._random.random() < 0.5:
            self.abandoned |= leftovers(self._mount) | claims(self._mount)
            shutil.rmtree(self._mount.cache)
        self._mount.start()
        self._log("remounted")
        self._workers.resume()


def leftovers(mount: Mount) -> set[str]:
    """Return the segments that a late manifest may name: the mount checks them after ten minutes."""
    with closing(sqlite3.connect(mount.cache / "journal.sqlite")) as database:
        return {key for (key,) in database.execute("SELECT key FROM leftovers")}


def claims(mount: Mount) -> set[str]:
    """Return the prefixes of segments of renamed objects, whose owner only the journal knows."""
    with closing(sqlite3.connect(mount.cache / "journal.sqlite")) as database:
        rows = database.execute("SELECT owner_key, is_prefix FROM claims")
        return {key if is_prefix else f"{key}/" for key, is_prefix in rows}


def _states(text: dict[str, dict[str, object]]) -> dict[str, State]:
    """Return the states of all paths from their JSON."""
    states = {}
    for path, fields in text.items():
        tags = tuple((name, value.encode()) for name, value in fields.pop("tags"))  # type: ignore[attr-defined]
        states[path] = State(**fields, tags=tags)  # type: ignore[arg-type]
    return states


def check(found: States, oracles: Sequence[Sequence[States]], where: str, log: Path) -> None:
    """Compare what a mount or Swift holds with each worker's possible states; fail with the log lines."""
    wrong = []
    rest = dict(found)
    for number, possible in enumerate(oracles):
        mine = {
            path: rest.pop(path)
            for path in list(rest)
            if path.split("/")[0] == f"w{number}" or path.startswith(f"{SHARED}/w{number}-")
        }
        wrong += shortest(differences(mine, one) for one in possible)
    rest.pop(SHARED, None)
    wrong += [f"{path}: {state} is nobody's" for path, state in rest.items()]
    assert not wrong, "\n".join([f"{where}:", *wrong, *histories(log, wrong)])


def histories(log: Path, lines: Sequence[str]) -> list[str]:
    """Return the log lines about the paths that `lines` name, also under their earlier names."""
    text = log.read_text(errors="replace").splitlines()
    names = set(re.findall(r"w\d+-\d+\w*(?: ü|\.txt|\.jpg)?", "\n".join(lines)))
    for line in reversed(text):
        match = re.search(r" renames (?:the folder )?(.*) to (\S*w\d+-\d+(?: ü)?\S*)", line)
        if match and Path(match[2]).name in names:
            names.add(Path(match[1]).name)
    shown = [
        line
        for line in text
        if any(re.search(rf"{re.escape(name)}(?![\w.])", line) for name in names)
        or line.startswith("INFO: faults")
        or not line.startswith("INFO: ")
    ]
    return ["history:", *shown[-SHOWN_LINES * max(1, min(4, len(names))) :]]
