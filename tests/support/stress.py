"""Workers that continue when their mount dies: each knows the states that a crash may have left of its files.

`python stress.py ROOT REPORTS LOG WORKERS SEED` works below the folder ROOT until REPORTS has a file `stop`.
A worker waits while there is a file `pause`, or when the mount has died, and records that it waits; it
continues when the number in the file `epoch` has grown. Its steps are logged to the mount's LOG too, with the
time. The environment has the credentials, and:

- `STRESS_SOURCE`: what is mounted
- `STRESS_WITHOUT`: names of steps that are left out, separated by commas
"""

import contextlib
import errno
import json
import mmap
import os
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from swiftclient import ClientException, Connection
from urllib3.exceptions import HTTPError

from support.crash_oracle import State, digest, look_below
from support.load import KIB, MIB, MOST_PATHS, SHARED, Worker
from support.uncertain_oracle import GONE, Piece, UncertainOracle, is_dead, moved
from swiftfs.control.client import read_state
from swiftfs.errors import SwiftfsError

STORED_LOOK = "look=stored"
"""The query of a request that no injected fault may hit."""

MAY_FAIL = frozenset({errno.EIO, errno.ETIMEDOUT, errno.EDQUOT, errno.EFBIG, errno.EACCES})
"""Errors that calls may have while Swift does not answer, or refuses."""

PAUSES = (0.0, 0.0, 0.0, 0.1, 0.6, 1.6, 1.9, 2.05)
"""Seconds between two calls: some are close to the write delay (`settle`) of a mount."""

POLL_SECONDS = 0.02

RETRY_SECONDS = 0.5

KERNEL_SECONDS = 2.2
"""How long the kernel may show old attributes, among them the mtime."""

NAMES_KEPT = 50
"""How many names of deleted files are kept to be used again."""


class StressWorker(Worker, UncertainOracle):
    """A worker that survives its mount."""

    def __init__(self, root: Path, reports: Path, number: int, seed: int, log: Path) -> None:
        super().__init__(root, reports, number, seed)
        self.others = []
        self.counts: Counter[str] = Counter()
        self._log = os.open(log, os.O_APPEND | os.O_WRONLY)
        self._left: list[str] = []
        self._client = Connection(
            os.environ["ST_AUTH"], os.environ["ST_USER"], os.environ["ST_KEY"], retries=0
        )
        self._container, _, self._prefix = os.environ["STRESS_SOURCE"].partition("/")

    def work(self) -> None:
        """Work until the file `stop` exists; then write the possible states."""
        left_out = os.environ.get("STRESS_WITHOUT", "").split(",")
        chosen = [(step, weight) for step, weight in self._all_steps() if step.__name__ not in left_out]
        steps, weights = zip(*chosen, strict=True)
        while not (self._reports / "stop").exists():
            if (self._reports / "pause").exists():
                self._wait_for_mount("pauses")
                self._look_again(stored=True)
            if self.home not in self.now:
                self._attempt(lambda: self.mkdir(self.home))
                continue
            self._attempt(self._random.choices(steps, weights)[0])
            self.forget_bodies()
            if len(self.now) > MOST_PATHS:
                self._attempt(self._tidy)
        self._look_again()
        self._write_states()
        self.log_step("ends")

    def _write_states(self) -> None:
        states = [{path: asdict(state) for path, state in one.items()} for one in (self.now, *self.others)]
        text = json.dumps({**self.counts, "states": states}, default=lambda tag: tag.decode())
        (self._reports / f"{self.home}.json").write_text(text)

    def log_step(self, text: str) -> None:
        """Record the next step, for the watchdog and in the mount's log."""
        super().log_step(text)
        os.write(self._log, f"INFO: {self.home} {time.monotonic():.3f} {text}\n".encode())

    def report_error(self, text: str) -> None:
        """Write an error into the reports, and its moment into the log."""
        self.log_step("has found a difference")
        super().report_error(text)

    def _attempt(self, step: Callable[[], object]) -> None:
        """Make a step; if it fails with an expected error, find out what it has done."""
        self.counts["steps"] += 1
        try:
            step()
        except OSError as error:
            if error.errno not in MAY_FAIL | GONE:
                raise
            self.log_step(f"fails: {error}")
        else:
            return
        self.counts["failures"] += not is_dead(self.root)
        self._look_again()

    def _look_again(self, *, stored: bool = False) -> None:
        """Compare all files with the mount, after waiting for a new one if it died, and adopt what is there.

        No other state is possible any more if the mount is new, or all is `stored`.
        """
        found: dict[str, State] | None = None
        while found is None:
            if is_dead(self.root):
                stored = True
                self.counts["crashes"] += 1
                self._wait_for_mount("waits")
            self._wait_for_release()
            self.log_step("looks at all")
            try:
                found = self._look_at_all()
            except OSError as error:
                if error.errno not in MAY_FAIL | GONE:
                    raise
                self.log_step(f"looks again: {error}")
                time.sleep(RETRY_SECONDS)
        wrong = self.adopt(found, certain=stored)
        assert not wrong, "\n".join(["a look at all finds:", *wrong])

    def _wait_for_release(self) -> None:
        """Wait until refused data is dropped, after the last close, and the kernel has forgotten it."""
        with contextlib.suppress(OSError, SwiftfsError):  # it has died
            while any(self._is_own(one.path) for one in read_state(self.root).writing):
                time.sleep(POLL_SECONDS)
            self._look_at_all()  # lookups make the kernel drop its pages of the refused data
            time.sleep(KERNEL_SECONDS)

    def _is_own(self, path: str) -> bool:
        return path.startswith((f"/{self.home}/", f"/{SHARED}/{self.home}-"))

    def _wait_for_mount(self, word: str) -> None:
        epoch = self._epoch()
        self.log_step(word)
        while self._epoch() == epoch:
            time.sleep(POLL_SECONDS)

    def _epoch(self) -> str:
        return (self._reports / "epoch").read_text()

    def _look_at_all(self) -> dict[str, State]:
        """Return the states of all paths of this worker."""
        found = {}
        for folder in (self.home, SHARED):
            top = self.root / folder
            names = os.listdir(top) if folder == SHARED or top.exists() else []  # noqa: PTH208
            for name in names:
                if name.startswith(f"{self.home}-"):
                    path = f"{folder}/{name}"
                    found[path] = self.look_at(path)
                    if found[path].kind == "folder":
                        below = look_below(top / name)
                        found |= {f"{path}/{inner}": state for inner, state in below.items()}
            if folder == self.home and top.exists():
                found[folder] = self.look_at(folder)
        return found

    def _all_steps(self) -> list[tuple[Callable[[], object], int]]:
        return [
            *self._steps(),
            (self._cut, 5),
            (self._store_now, 3),
            (self._rename_file, 8),
            (self._change_large, 8),
            (self._burst, 5),
            (self._remove_and_move, 6),
            (self._unlink_open, 4),
            (self._map, 6),
            (self._rename_below_open_file, 4),
            (self._rename_while_closing, 4),
            (self._rotate, 4),
            (self._empty_and_rewrite, 4),
            (self._pause, 2),
        ]

    def _folders(self) -> list[str]:
        """Return all folders, the worker's home first: after a look at the mount the order is another."""
        return sorted(super()._folders(), key=lambda path: path != self.home)

    def _new_path(self, folders: list[str] | None = None) -> str:
        """Return a path that does not exist, sometimes one of a deleted file."""
        if folders is None and self._left and self._random.random() < 0.4:
            path = self._random.choice(self._left)
            if path not in self.now and str(Path(path).parent) in {*self._folders(), SHARED}:
                return path
        path = super()._new_path(folders)
        self._left = [*self._left[-NAMES_KEPT:], path]
        return path

    def _rest(self, pauses: tuple[float, ...] = PAUSES) -> None:
        time.sleep(self._random.choice(pauses))

    def _pause(self) -> None:
        self.log_step("pauses for a moment")
        self._rest()

    def _some_large_file(self) -> str:
        files = [path for path in self._files() if len(self.bytes_of(path)) > MIB]
        if not files:
            self._create_large()
            return max(self._files(), key=lambda path: len(self.bytes_of(path)))
        return self._random.choice(files)

    def _pieces(self, size: int) -> list[Piece]:
        """Return one to three calls that change a file of this size."""
        pieces = []
        for _ in range(self._random.randint(1, 3)):
            kind = self._random.randrange(6)
            if kind == 0:
                size = self._random.randint(size // 2, size + 100 * KIB)
                pieces.append(Piece(size))
            else:
                offset = size if kind < 3 else self._random.randint(0, size)
                body = self._random.randbytes(self._random.choice((1, 3000, 60 * KIB)))
                pieces.append(Piece(offset, body))
                size = max(size, offset + len(body))
        return pieces

    def _change(self, path: str, pause: Callable[[], None] = lambda: None) -> None:
        pieces = self._pieces(len(self.bytes_of(path)))
        calls = [f"{one.offset}+{'cut' if one.body is None else len(one.body)}" for one in pieces]
        self.log_step(f"changes {path} of {len(self.bytes_of(path))} bytes: {' '.join(calls)}")
        self.edit(path, pieces, empty=False, pause=pause)

    def _change_large(self) -> None:
        """Change a large object in place."""
        self._change(self._some_large_file())

    def _burst(self) -> None:
        """Change a file several times, so that a close comes while the upload of the one before runs."""
        path = self._some_file() if self._random.random() < 0.5 else self._some_large_file()
        for _ in range(self._random.randint(2, 4)):
            self._change(path)
            self._rest()

    def _empty_and_rewrite(self) -> None:
        path = self._some_file()
        pieces = [
            Piece(at * 50 * KIB, self._random.randbytes(50 * KIB))
            for at in range(self._random.randint(1, 30))
        ]
        self.log_step(f"empties {path} and writes {len(pieces)} pieces")
        self.edit(path, pieces, empty=True, pause=lambda: None)

    def _remove_and_move(self) -> None:
        """Delete a file and move another to its place, as editors do."""
        old, new = self._some_file(), self._some_file()
        if old == new:
            return
        self.log_step(f"deletes {new} to move {old} there")
        self.unlink(new)
        self._rest()
        self.log_step(f"renames {old} to {new}")
        self.rename(old, new)

    def _unlink_open(self) -> None:
        path = self._some_file()
        self.log_step(f"deletes {path}, open")
        body = self.bytes_of(path)
        with (self.root / path).open("r+b", buffering=0) as file:
            self.unlink(path)
            self._rest((0.0, 0.0, 0.0, 0.5))
            assert file.read(len(body) + 1) == body, f"{path}, open and deleted, holds something else"
            with contextlib.suppress(OSError):
                file.write(b"never seen again")

    def _map(self) -> None:
        """Change a file through a mapping, in a child process: a page of a dead mount kills it (SIGBUS)."""
        path = self._some_large_file() if self._random.random() < 0.5 else self._some_file()
        body = self.bytes_of(path)
        if not body:
            return
        offset = self._random.randrange(len(body))
        piece = Piece(offset, self._random.randbytes(min(5000, len(body) - offset)))
        self.log_step(f"maps {path} and changes {len(piece.body or b'')} bytes at {offset}")
        self.change(
            lambda: in_child_process(lambda: write_mapped(self.root / path, piece)),
            self.holding(path, piece.apply(body)),
        )
        self.settle(path)

    def _folder_and_file_below(self) -> tuple[str, str, str] | None:
        """Return a folder that can be renamed, a file in it, and a new path for the folder."""
        folders = self._folders()[1:]
        pairs = [(folder, path) for folder in folders for path in self._files() if path in self.below(folder)]
        if not pairs:
            return None
        folder, path = self._random.choice(pairs)
        return folder, path, self._new_path([one for one in self._folders() if one not in self.below(folder)])

    def _rename_below_open_file(self) -> None:
        """Rename a folder while a file below it is being written."""
        if not (chosen := self._folder_and_file_below()):
            return
        folder, path, new = chosen
        self.log_step(f"renames the folder {folder} to {new} with {path} open")
        body = self.bytes_of(path)
        first = Piece(len(body), self._random.randbytes(2000))
        second = Piece(self._random.randint(0, len(body)), self._random.randbytes(2000))
        there = new + path[len(folder) :]
        with (self.root / path).open("r+b", buffering=0) as file:
            one = first.apply(body)
            self.change(lambda: first.make(file.fileno()), self.holding(path, one), closed=False)
            self.rename(folder, new)
            both = second.apply(one)
            self.change(lambda: second.make(file.fileno()), self.holding(there, both), closed=False)
            self.change(file.close, self.holding(there, both))
        self.settle(there)

    def _rename_while_closing(self) -> None:
        """Rename a folder while another program writes a file below it through a mapping and closes it."""
        if not (chosen := self._folder_and_file_below()) or not self.bytes_of(chosen[1]):
            return
        folder, path, new = chosen
        body = self.bytes_of(path)
        piece = Piece(self._random.randrange(len(body)), self._random.randbytes(1))
        self.log_step(
            f"renames the folder {folder} to {new} while {path} is mapped and written at {piece.offset}"
        )
        written = self.holding(path, piece.apply(body))
        descriptor = os.open(self.root / path, os.O_RDWR)
        child = os.fork()
        if not child:
            os._exit(errno_of(lambda: write_map(descriptor, piece)))
        with contextlib.suppress(OSError):  # it may report an earlier change that was refused
            os.close(descriptor)
        ended: list[int] = []
        waiter = threading.Thread(target=lambda: ended.append(os.waitpid(child, 0)[1]))

        def both() -> None:
            waiter.start()
            try:
                (self.root / folder).rename(self.root / new)
            finally:
                waiter.join()
            raise_for(ended[0])

        self.change(
            both,
            lambda states: moved(written(states) or {}, folder, new),
            halfway=[written, lambda states: moved(states, folder, new)],
        )
        self.settle(new + path[len(folder) :])

    def _rotate(self) -> None:
        """Move an open file, and make another one under its name: they are two files."""
        path, new = self._some_file(), self._new_path()
        self.log_step(f"rotates {path}: renames {path} to {new}")
        with (self.root / path).open("rb", buffering=0) as file:
            self.rename(path, new)
            self.write(path, self._bytes(5 * KIB))
            one, other = os.fstat(file.fileno()).st_ino, (self.root / path).stat().st_ino
            assert one != other, f"{path} and {new} have one inode number, {one}"
            assert file.read() == self.bytes_of(new) or is_dead(self.root), (
                f"{new} as it was opened as {path}"
            )

    def _store_now(self) -> None:
        """Store a file by fsync, and compare the object in Swift."""
        path = self._some_file()
        self.log_step(f"fsyncs {path}")
        descriptor = os.open(self.root / path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self.make_certain(path)
        wanted = self.now[path].holds
        found = self._stored(path)
        self.counts["found in Swift after fsync"] += found is not None
        assert found in (None, wanted), f"{path} in Swift after fsync: {found} is not {wanted}"

    def _stored(self, path: str) -> str | None:
        """Return what a path's object holds in Swift, None while Swift does not answer."""
        try:
            return digest(
                self._client.get_object(self._container, self._prefix + path, query_string=STORED_LOOK)[1]
            )
        except ClientException as error:
            return f"{error.http_status}" if error.http_status in {404, 409} else None
        except (OSError, HTTPError):  # urllib3's is no OSError: the server was killed in the body
            return None

    def _rename_file(self) -> None:
        """Rename a file, sometimes over another one or to the path of a deleted one."""
        old = self._some_file()
        new = self._some_file() if self._random.random() < 0.4 else self._new_path()
        if new != old:
            self.log_step(f"renames {old} to {new}")
            self.rename(old, new)

    def _cut(self) -> None:
        path = self._some_file()
        body = self.bytes_of(path)
        size = self._random.choice((0, self._random.randint(0, len(body) + 1000), len(body) + 70 * KIB))
        self.log_step(f"cuts {path} of {len(body)} bytes to {size}")
        cut = Piece(size).apply(body)
        self.change(
            lambda: os.truncate(self.root / path, size),
            self.holding(path, cut),
            halfway=[self.holding(path, Piece(len(body)).apply(cut))],
        )
        self.settle(path)


def write_mapped(path: Path, piece: Piece) -> None:
    """Change a file through a mapping; see `write_map`."""
    write_map(os.open(path, os.O_RDWR), piece)


def write_map(descriptor: int, piece: Piece) -> None:
    """Change a file through a mapping, and close its descriptor."""
    body = piece.body or b""
    with mmap.mmap(descriptor, piece.offset + len(body)) as pages:
        pages[piece.offset : piece.offset + len(body)] = body
        pages.flush()
    os.close(descriptor)


def errno_of(job: Callable[[], object]) -> int:
    """Call a function; return its errno, 0 without an error, 255 for any other exception."""
    try:
        job()
    except OSError as error:
        return error.errno or 255
    except BaseException:  # noqa: BLE001 - the parent reports it
        traceback.print_exc()
        return 255
    return 0


def in_child_process(job: Callable[[], object]) -> None:
    """Call a function in a child process; its death by a signal counts as that of the mount (EIO)."""
    child = os.fork()
    if not child:
        os._exit(errno_of(job))
    raise_for(os.waitpid(child, 0)[1])


def raise_for(status: int) -> None:
    """Raise `OSError` for a child's status as `waitpid` returns it: the exit code is an errno."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        raise OSError(errno.EIO, f"a signal ended the child: {-code}")
    if code:
        raise OSError(code, os.strerror(code))


def main(root: str, reports: str, log: str, workers: str, seed: str) -> int:
    """Run the workers in processes of their own; return how many failed."""
    (Path(root) / SHARED).mkdir(exist_ok=True)
    children = []
    for number in range(int(workers)):
        child = os.fork()
        if not child:
            os._exit(run_worker(StressWorker(Path(root), Path(reports), number, int(seed), Path(log))))
        children.append(child)
    return sum(os.waitpid(child, 0)[1] != 0 for child in children)


def run_worker(worker: StressWorker) -> int:
    """Let a worker work; return 0 if all was right, else 1, with the traceback in the reports."""
    try:
        worker.work()
    except BaseException:  # noqa: BLE001 - whatever it is, the test shall read it
        worker.report_error(traceback.format_exc())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
