"""What workers of load and stress tests do in a mount: random system calls, whose results they compare."""

import contextlib
import os
import random
from collections.abc import Callable
from pathlib import Path

from support.crash_oracle import CrashOracle, State, look

KIB, MIB = 1024, 1024**2

SHARED = "shared"
"""The folder in which all workers have files."""

MOST_PATHS = 40
"""Limit of paths of one worker; above it half of its files are deleted."""

STEP_BYTES = 200
"""Length of the record of a worker's current step, in bytes."""


class Worker(CrashOracle):
    """A worker: makes random system calls, and compares the results with its oracle."""

    def __init__(self, root: Path, reports: Path, number: int, seed: int) -> None:
        super().__init__(root)
        self.home = f"w{number}"
        self.done = 0
        self._random = random.Random(f"{seed} {number}")
        self._number = number
        self._reports = reports
        self._step_file = os.open(reports / f"{self.home}.now", os.O_CREAT | os.O_WRONLY)
        self._made = 0

    def log_step(self, text: str) -> None:
        """Record the next step, for the watchdog."""
        self.done += 1
        line = f"{self.done} {text}"[: STEP_BYTES - 1].ljust(STEP_BYTES - 1) + "\n"
        os.pwrite(self._step_file, line.encode(errors="replace")[:STEP_BYTES], 0)

    def report_error(self, text: str) -> None:
        """Write an error into the reports."""
        (self._reports / f"{self.home}.error").write_text(text)

    def settle(self, *paths: str) -> None:
        """Compare first, because the message of the base class lacks the states."""
        for path in paths:
            found = look(self.root / path)
            assert self.now[path].allows(found), f"{path}: {found} is not {self.now[path]}"
        super().settle(*paths)

    def _steps(self) -> list[tuple[Callable[[], object], int]]:
        return [
            (self._create, 20),
            (self._create_large, 2),
            (self._rewrite, 8),
            (self._append, 8),
            (self._patch, 6),
            (self._rename_folder, 2),
            (self._make_folder, 5),
            (self._remove_folder, 3),
            (self._delete, 8),
            (self._set_attributes, 8),
            (self._make_link, 3),
            (self._compare_one, 30),
            (self._compare_names, 12),
            (self._look_up_missing, 4),
        ]

    def _files(self) -> dict[str, State]:
        return {path: state for path, state in self.now.items() if state.kind == "file"}

    def _some_file(self) -> str:
        """Return the path of a file, made now if there is none."""
        files = list(self._files())
        if not files:
            self._create()
            files = list(self._files())
        return self._random.choice(files)

    def _folders(self) -> list[str]:
        return [path for path, state in self.now.items() if state.kind == "folder"]

    def _new_path(self, folders: list[str] | None = None) -> str:
        self._made += 1
        folder = self._random.choice(folders or [*self._folders(), SHARED])
        return f"{folder}/{self.home}-{self._made}{self._random.choice(('', '.txt', ' ü', '.jpg'))}"

    def _bytes(self, most: int) -> bytes:
        return self._random.randbytes(self._random.choice((0, 1, most // 7, most // 2, most)))

    def _create(self) -> None:
        path = self._new_path()
        self.log_step(f"creates {path}")
        self.write(path, self._bytes(16 * KIB))

    def _create_large(self) -> None:
        path = self._new_path()
        self.log_step(f"creates {path}, large")
        self.write(path, self._random.randbytes(self._random.randint(MIB, 3 * MIB)))

    def _rewrite(self) -> None:
        path = self._some_file()
        self.log_step(f"rewrites {path}")
        self.write(path, self._bytes(32 * KIB))

    def _append(self) -> None:
        path = self._some_file()
        self.log_step(f"appends to {path}")
        self.write(path, self._random.randbytes(3000), offset=len(self._bodies[self.now[path].holds]))

    def _patch(self) -> None:
        path = self._some_file()
        size = len(self._bodies[self.now[path].holds])
        self.log_step(f"patches {path}")
        self.write(path, self._random.randbytes(500), offset=self._random.randint(0, size + 2000))

    def _rename_folder(self) -> None:
        folders = self._folders()[1:]
        if not folders:
            return
        old = self._random.choice(folders)
        above = [path for path in self._folders() if path not in self.below(old)]
        new = self._new_path(above)
        self.log_step(f"renames the folder {old} to {new}")
        self.rename(old, new)

    def _make_folder(self) -> None:
        path = self._new_path([path for path in self._folders() if path.count("/") < 4])
        self.log_step(f"makes {path}")
        self.mkdir(path)

    def _remove_folder(self) -> None:
        folders = self._folders()[1:]
        if not folders:
            return
        path = self._random.choice(folders)
        inside = self.below(path)[1:]
        self.log_step(f"removes the folder {path} with {len(inside)} in it")
        if not inside:
            self.rmdir(path)
            return
        with contextlib.suppress(OSError):
            (self.root / path).rmdir()
            raise AssertionError(f"{path} was removed, and it held {inside}")

    def _delete(self) -> None:
        paths = [path for path, state in self.now.items() if state.kind != "folder"]
        if paths:
            path = self._random.choice(paths)
            self.log_step(f"deletes {path}")
            self.unlink(path)

    def _tidy(self) -> None:
        """Delete half of all files."""
        files = [path for path, state in self.now.items() if state.kind != "folder"]
        for path in self._random.sample(files, len(files) // 2):
            self.log_step(f"tidies {path} away")
            self.unlink(path)
        for path in sorted(self._folders()[1:], reverse=True):
            if len(self.below(path)) == 1:
                self.log_step(f"tidies {path} away")
                self.rmdir(path)

    def _set_attributes(self) -> None:
        path = self._some_file()
        self.log_step(f"describes {path}")
        what = self._random.randrange(3)
        if what == 0:
            self.chmod(path, self._random.choice((0o600, 0o644, 0o640)))
        elif what == 1:
            self.touch(path, self._random.randint(10**18, 15 * 10**17))
        elif not self.now[path].tags:
            self.tag(path, "user.note", b"by %d" % self._number)

    def _make_link(self) -> None:
        path = self._new_path()
        self.log_step(f"links {path}")
        self.symlink(path, f"to/{self._made}")

    def _compare_one(self) -> None:
        path = self._random.choice(list(self.now))
        self.log_step(f"compares {path}")
        found = look(self.root / path)
        assert self.now[path].allows(found), f"{path}: {found} is not {self.now[path]}"

    def _compare_names(self) -> None:
        folder = self._random.choice([*self._folders(), SHARED])
        self.log_step(f"compares the names in {folder}")
        found = set(os.listdir(self.root / folder))  # noqa: PTH208
        mine = {name for name in found if name.startswith(f"{self.home}-")}
        wanted = {Path(path).name for path in self.now if str(Path(path).parent) == folder}
        assert mine == wanted, f"{folder}: {mine ^ wanted} in {len(found)} names"
        assert folder == SHARED or found == mine

    def _look_up_missing(self) -> None:
        path = f"{self._random.choice(self._folders())}/nothing{self._random.random()}"
        self.log_step(f"looks for {path}")
        assert not (self.root / path).exists()
