"""Renames of large folders in a real mount: the objects move when rename(2) has returned."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from swiftclient import Connection

from support.commands import swiftfs
from support.deadlines import within
from support.jobs import wait_until
from support.mounts import Mount
from swiftfs.demo.server import Fault, SwiftServer

COUNT = 20
NAMES = [f"{number:03}" for number in range(COUNT)]
OPTIONS = "settle=0.2,background_rename=15"


@pytest.fixture
def stored(connection: Connection, container: str) -> None:
    """Store a folder of `COUNT` objects in two folders."""
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda name: _put(connection, container, name), NAMES))


def _put(connection: Connection, container: str, name: str) -> None:
    """Store an object: in `sub` as another client does, else as swiftfs does."""
    own = Connection(preauthurl=connection.url, preauthtoken=connection.token)
    kind = "text/plain" if _folder(name) else "text/plain;mode=0100644"
    own.put_object(container, f"d/{_folder(name)}{name}", name.encode(), content_type=kind)
    own.close()


def _folder(name: str) -> str:
    return "sub/" if name.endswith("9") else ""


def expected(folder: str) -> list[str]:
    return sorted(f"{folder}/{_folder(name)}{name}" for name in NAMES)


@pytest.fixture
def mount(swift: SwiftServer, container: str, stored: None, tmp_path: Path) -> Iterator[Mount]:
    with Mount(swift, container, tmp_path / "mount", OPTIONS) as mounted:
        yield mounted


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def keys(connection: Connection, container: str) -> list[str]:
    return [row["name"] for row in connection.get_container(container, full_listing=True)[1]]


def hold_copies(swift: SwiftServer) -> None:
    swift.inject(Fault("COPY", "/d/", delay=600))


def let_copies_go(swift: SwiftServer) -> None:
    swift.clear_faults()
    swift.end_delays()


def test_a_rename_returns_while_the_copies_are_held_back(
    mount: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    old, new = mount.path / "d", mount.path / "e"
    hold_copies(swift)
    swift.reset_requests()
    old.rename(new)
    before = [one.method for one in swift.requests() if one.method != "COPY"]
    assert len(before) <= 12 + COUNT // 10, before  # a HEAD for each object of another client
    assert keys(connection, container) == expected("d")
    assert names(mount.path) == ["e"]
    assert names(new) == sorted([*(name for name in NAMES if not _folder(name)), "sub"])
    assert len(names(new / "sub")) == COUNT // 10
    assert (new / "007").read_bytes() == b"007"
    assert (new / "sub" / "019").read_bytes() == b"019"
    for path in (old, old / "007", old / "sub" / "019"):
        with pytest.raises(FileNotFoundError):
            path.stat()
    (rename,) = json.loads(swiftfs("status", "--json", mount.path).stdout)["renames"]
    assert rename == {"old": "/d", "new": "/e", "objects": COUNT, "left": COUNT}
    assert f"0 of {COUNT} objects moved" in swiftfs("status", mount.path).stdout
    let_copies_go(swift)
    assert swiftfs("flush", mount.path).returncode == 0
    assert keys(connection, container) == expected("e")
    assert sum(one.method == "COPY" for one in swift.requests()) == COUNT
    assert (new / "008").read_bytes() == b"008"


def test_an_unmount_waits_for_the_copies(
    mount: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    hold_copies(swift)
    (mount.path / "d").rename(mount.path / "e")
    with ThreadPoolExecutor(1) as threads:
        stopped = threads.submit(mount.stop)
        wait_until(lambda: any(one.method == "COPY" for one in swift.requests()))
        let_copies_go(swift)
        stopped.result(within(60))
    assert keys(connection, container) == expected("e")


@pytest.mark.matrix(1)
@pytest.mark.parametrize("method", ["COPY", "POST", "DELETE"])
def test_the_next_mount_goes_on_after_a_kill(
    mount: Mount, swift: SwiftServer, connection: Connection, container: str, method: str
) -> None:
    new = mount.path / "e"
    swift.inject(Fault(method, "/d/|bulk-delete", delay=600, status=503))
    (mount.path / "d").rename(new)
    (new / "003").write_bytes(b"newer")
    (new / "004").unlink()
    wait_until(lambda: swiftfs("status", mount.path).returncode == 0)
    mount.kill()
    let_copies_go(swift)
    hold_copies(swift)
    mount.start()
    assert names(mount.path) == ["e"]
    assert "004" not in names(new)
    assert (new / "003").read_bytes() == b"newer"
    assert (new / "007").read_bytes() == b"007"
    let_copies_go(swift)
    assert swiftfs("flush", mount.path).returncode == 0
    assert keys(connection, container) == [key for key in expected("e") if key != "e/004"]
    assert connection.get_object(container, "e/003")[1] == b"newer"


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"+")
        os.fsync(file.fileno())


def _remake(path: Path) -> None:
    path.mkdir()
    assert names(path) == []
    (path / "005").write_bytes(b"again")


CALLS: dict[str, Callable[[Path], object]] = {
    "append": lambda top: _append(top / "e" / "005"),
    "rename again": lambda top: (top / "e").rename(top / "f"),
    "rename back": lambda top: (top / "e").rename(top / "d"),
    "rmdir": lambda top: subprocess.run(["rm", "-r", top / "e" / "sub"], check=True),
    "the old name anew": lambda top: _remake(top / "d"),
    "a file at the old name": lambda top: (top / "d").write_bytes(b"file"),
}


@pytest.mark.matrix(3)
@pytest.mark.parametrize("call", CALLS)
def test_calls_while_the_objects_move(
    mount: Mount, swift: SwiftServer, connection: Connection, container: str, call: str
) -> None:
    hold_copies(swift)
    (mount.path / "d").rename(mount.path / "e")
    with ThreadPoolExecutor(1) as threads:
        called = threads.submit(CALLS[call], mount.path)
        wait_until(lambda: any(one.method == "COPY" for one in swift.requests()))
        let_copies_go(swift)
        called.result(within(120))
    assert swiftfs("flush", mount.path).returncode == 0
    want = {"rename again": expected("f"), "rename back": expected("d")}.get(call, expected("e"))
    if call == "rmdir":
        want = [key for key in want if not key.startswith("e/sub/")]
    found = keys(connection, container)
    assert [key for key in found if key not in ("d", "d/005", "e")] == [key for key in want if key != "d/005"]
    if call == "the old name anew":
        assert connection.get_object(container, "d/005")[1] == b"again"
        assert connection.get_object(container, "e/005")[1] == b"005"
    if call == "append":
        assert connection.get_object(container, "e/005")[1] == b"005+"


def test_the_parent_is_renamed_while_the_objects_move(
    mount: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    (mount.path / "p").mkdir()
    hold_copies(swift)
    (mount.path / "d").rename(mount.path / "p" / "d")
    with ThreadPoolExecutor(1) as threads:
        called = threads.submit((mount.path / "p").rename, mount.path / "q")
        wait_until(lambda: any(one.method == "COPY" for one in swift.requests()))
        let_copies_go(swift)
        called.result(within(120))
    assert (mount.path / "q" / "d" / "007").read_bytes() == b"007"
    assert swiftfs("flush", mount.path).returncode == 0
    assert [key for key in keys(connection, container) if key != "q"] == expected("q/d")


def test_what_swift_refuses_is_at_its_old_name_again(
    mount: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    mount.expected.append("/d/005: could not be moved to /e/005, and is at its old name again: ")
    mount.exit_code = None
    swift.inject(Fault("COPY", "/d/005", status=403))
    (mount.path / "d").rename(mount.path / "e")
    flushed = swiftfs("flush", mount.path)
    assert flushed.returncode == 1
    assert "/d/005: could not be moved and was given up: " in flushed.stderr
    assert keys(connection, container) == sorted(["d/005", *(key for key in expected("e") if key != "e/005")])
    assert names(mount.path / "d") == ["005"]
    assert (mount.path / "d" / "005").read_bytes() == b"005"
    assert "005" not in names(mount.path / "e")
    mount.exit_code = 0
