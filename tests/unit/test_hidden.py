"""The folder `.swiftfs` in a mount's root: who may read it, that nobody changes it, that no walk finds it."""

import contextlib
import errno
import inspect
import os
from collections.abc import Callable

import pytest

from support.log_records import record
from swiftfs.control.control_dir import DIRECT_HANDLES, ROOT, ControlDir, ControlDirFS
from swiftfs.errors import os_error
from swiftfs.fuse.filesystem import FileSystem
from swiftfs.objects import Caller
from swiftfs.paths import beside_hidden, without_hidden
from swiftfs.service.monitoring import RECENT_CHARACTERS, RECENT_LINES, Recent


@pytest.mark.parametrize(
    "name", [".swiftfs", "%.swiftfs", "%%%.swiftfs", ".swiftfs2", "a", "%", "%a", ".swiftfs%"]
)
def test_no_other_name_is_shown_as_the_hidden_folder(name: str) -> None:
    shown = beside_hidden(name)
    assert shown != ".swiftfs"
    assert without_hidden(f"/{shown}") == f"/{name}"
    assert without_hidden(f"/{shown}/.swiftfs") == f"/{name}/.swiftfs"


def control_dir() -> ControlDir:
    return ControlDir({"log": lambda: b"x"}, lambda: Caller(os.getuid(), 0))


def test_an_unreadable_cache_folder_does_not_make_the_status_private() -> None:
    """Whoever reads it would be told that only the user who mounted may do so."""

    def refused() -> bytes:
        raise os_error(errno.EACCES, "lost")

    folder = ControlDir({"status.json": refused}, lambda: Caller(os.getuid(), 0))
    with pytest.raises(OSError, match="Input/output error"):
        folder.open(f"{ROOT}/status.json", os.O_RDONLY)


class CalledFileSystem:
    """A file system that does nothing and records its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[object, ...]]] = []

    def __getattr__(self, name: str) -> Callable[..., object]:
        return lambda *words: self.calls.append((name, words))


CALLS = {name: call for name, call in vars(FileSystem).items() if not name.startswith("_") and callable(call)}


def words_of(call: Callable[..., object], path: str, handle: int) -> list[object]:
    """Return arguments for a call of a file system: `path` for each path, `handle` for each handle."""
    special: dict[str, object] = {"path": path, "old": path, "new": path, "name": "user.a"}
    special |= dict.fromkeys(("handle", "handle_in", "handle_out"), handle)
    names = list(inspect.signature(call).parameters)[1:]
    return [special.get(name, f"the {name}") for name in names]


@pytest.mark.parametrize("name", CALLS)
def test_every_call_is_passed_on_with_its_arguments(name: str) -> None:
    plain = CalledFileSystem()
    both = ControlDirFS(plain, control_dir())  # type: ignore[arg-type]
    getattr(both, name)(*words_of(CALLS[name], "/%.swiftfs", 7))
    assert plain.calls == [(name, tuple(words_of(CALLS[name], "/.swiftfs", 7)))]


@pytest.mark.parametrize("name", [name for name in CALLS if name != "statfs"])
def test_no_call_for_the_folder_reaches_the_file_system(name: str) -> None:
    plain, control = CalledFileSystem(), control_dir()
    handle = control.open(f"{ROOT}/log", os.O_RDONLY)
    both = ControlDirFS(plain, control)  # type: ignore[arg-type]
    words = words_of(CALLS[name], ROOT, handle)
    if name in {"read", "open", "readdir", "lseek"}:
        words[1:] = [0, 1][: len(words) - 1]
    opened = set() if name == "release" else {handle}
    with contextlib.suppress(OSError):
        result = getattr(both, name)(*words)
        opened |= {result} if name == "open" else set()
    for one in opened:
        control.release(one)
    assert plain.calls == []


def test_only_its_own_paths_are_hidden() -> None:
    hidden = control_dir()
    assert hidden.getattr(ROOT).is_directory
    handle = hidden.open(f"{ROOT}/log", os.O_RDONLY)
    assert handle >= DIRECT_HANDLES
    hidden.release(handle)
    for path in (f"{ROOT}/other", f"{ROOT}/log/x"):
        with pytest.raises(FileNotFoundError):
            hidden.getattr(path)


@pytest.mark.usual
def test_the_log_kept_in_memory_is_bounded() -> None:
    recent = Recent()
    for number in range(RECENT_LINES + 5):
        recent.handle(record(f"line {number} " + "x" * 2 * RECENT_CHARACTERS))
    lines = recent.text().splitlines()
    assert len(lines) == RECENT_LINES
    assert "line 5 " in lines[0]
    assert {len(line) for line in lines} == {RECENT_CHARACTERS}
