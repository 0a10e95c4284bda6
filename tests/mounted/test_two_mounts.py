"""Two mounts of one container with a cache each: what one sees of the other's changes, and when."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from swiftclient import Connection

from support import mount_with_rests
from support.deadlines import within
from support.jobs import wait_until
from support.large_files import segment_names
from support.mounts import Mount
from support.noise import noise
from swiftfs.control.client import flush
from swiftfs.demo.server import Fault, SwiftServer
from swiftfs.store.request import ANSWER_SECONDS

TTL = 1.0
KERNEL_SECONDS = 1.0
SLACK_SECONDS = 3.0
"""Time for the requests."""

ALMOST_TOO_LONG = ANSWER_SECONDS - 2
"""Seconds of a delay that the test ends; a mount that waits longer for an answer sends its request again."""

MIB = 1024 * 1024


def versions() -> tuple[bytes, bytes]:
    """Return what a large file holds, and what it holds then."""
    return b"o" * 5 * MIB, b"n" * 5 * MIB


class Pair(NamedTuple):
    """Two mounts of the same container."""

    one: Mount
    other: Mount

    def store(self, mount: Mount) -> None:
        """Return when Swift has all changes of a mount."""
        assert flush(mount.path, lambda _report: None).unflushed == 0

    def seen(self, condition: Callable[[Path], object]) -> None:
        """Store all changes of one mount; the other must show them when its listings have expired."""
        self.store(self.one)
        began = time.monotonic()
        wait_until(lambda: condition(self.other.path))
        assert time.monotonic() - began < TTL + KERNEL_SECONDS + within(SLACK_SECONDS)


@pytest.fixture
def pair(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Pair]:
    marker = request.node.get_closest_marker("mount_options")
    options = f"settle=0.2,ttl={TTL},{marker.args[0] if marker else 'segment_size=1M,read_ahead=0'}"
    with ExitStack() as stack:
        yield Pair(*(stack.enter_context(Mount(swift, container, tmp_path / name, options)) for name in "ab"))


def shows(folder: Path, names: set[str]) -> bool:
    """Return whether a folder has exactly these names."""
    return set(os.listdir(folder)) == names  # noqa: PTH208


def is_gone(name: str, folder: int) -> bool:
    """Return whether an open folder lacks a name."""
    try:
        os.stat(name, dir_fd=folder)
    except FileNotFoundError:
        return True
    return False


def test_a_file_closed_in_one_mount_is_seen_in_the_other_within_the_ttl(pair: Pair) -> None:
    one, other = pair.one.path, pair.other.path
    assert os.listdir(other) == []  # noqa: PTH208
    (one / "file").write_bytes(b"first")
    pair.seen(lambda root: (root / "file").exists())
    assert (other / "file").read_bytes() == b"first"
    (one / "file").write_bytes(b"second")
    pair.seen(lambda root: (root / "file").read_bytes() == b"second")
    with (one / "file").open("ab") as stream:
        stream.write(b" and more")
    pair.seen(lambda root: (root / "file").read_bytes() == b"second and more")
    (one / "file").chmod(0o600)
    os.utime(one / "file", ns=(0, 10**18))
    pair.seen(lambda root: (root / "file").stat().st_mtime_ns == 10**18)
    assert (other / "file").stat().st_mode & 0o777 == 0o600
    (one / "folder").mkdir()
    (one / "file").rename(one / "folder" / "moved")
    pair.seen(lambda root: (root / "folder" / "moved").exists() and not (root / "file").exists())
    assert (other / "folder" / "moved").read_bytes() == b"second and more"
    (one / "folder").rename(one / "renamed")
    pair.seen(lambda root: os.listdir(root) == ["renamed"])  # noqa: PTH208
    assert (other / "renamed" / "moved").read_bytes() == b"second and more"
    (one / "renamed" / "moved").unlink()
    pair.seen(lambda root: not (root / "renamed" / "moved").exists())
    (one / "renamed").rmdir()
    pair.seen(lambda root: not (root / "renamed").exists())


def test_reads_never_mix_two_versions(pair: Pair) -> None:
    old, new = versions()
    (pair.one.path / "file").write_bytes(old)
    pair.seen(lambda root: (root / "file").exists())
    pair.other.expected.append("ESTALE")
    descriptor = os.open(pair.other.path / "file", os.O_RDONLY)
    try:
        assert os.pread(descriptor, 10, 0) == old[:10]
        (pair.one.path / "file").write_bytes(new)
        pair.store(pair.one)
        found = {os.pread(descriptor, 10, 0)}
        for offset in range(MIB, len(old), 3 * MIB):
            with suppress(OSError):
                found.add(os.pread(descriptor, 10, offset))
        assert found == {old[:10]}
        assert os.fstat(descriptor).st_size == len(old)
    finally:
        os.close(descriptor)
    pair.seen(lambda root: (root / "file").read_bytes() == new)


def test_reads_with_a_stale_listing_never_mix_two_versions(pair: Pair) -> None:
    """The name is opened again before the listing expires, but the version in it is gone."""
    old, new = versions()
    (pair.one.path / "file").write_bytes(old)
    pair.seen(lambda root: (root / "file").exists())
    pair.other.expected.append("ESTALE")
    (pair.one.path / "file").write_bytes(new)
    pair.store(pair.one)
    found = set()
    for _ in range(20):
        with suppress(OSError):
            found.add((pair.other.path / "file").read_bytes())
    assert found <= {old, new}
    pair.seen(lambda root: (root / "file").read_bytes() == new)


def test_the_last_upload_wins(pair: Pair, connection: Connection, container: str) -> None:
    for mount, body in ((pair.one, b"one"), (pair.other, b"the other")):
        (mount.path / "file").write_bytes(body)
        pair.store(mount)
    assert connection.get_object(container, "file")[1] == b"the other"
    assert [row["name"] for row in connection.get_container(container)[1]] == ["file"]
    wait_until(lambda: (pair.one.path / "file").read_bytes() == b"the other")


@pytest.mark.mount_options("conflict=keep")
def test_the_version_of_the_other_mount_is_kept_as_a_conflict_copy(
    pair: Pair, connection: Connection, container: str
) -> None:
    pair.other.expected.append("conflict")
    for mount, body in ((pair.one, b"one"), (pair.other, b"the other")):
        (mount.path / "file.txt").write_bytes(body)
    pair.store(pair.one)
    pair.store(pair.other)
    bodies = {
        row["name"]: connection.get_object(container, row["name"])[1]
        for row in connection.get_container(container)[1]
    }
    pair.one.expected.append("conflict")
    assert sorted(bodies.values()) == [b"one", b"the other"]
    assert "file.txt" in bodies
    assert any(name.startswith("file (conflict ") and name.endswith(").txt") for name in bodies)


def test_both_mounts_create_the_same_folder(pair: Pair, connection: Connection, container: str) -> None:
    for mount in pair:
        (mount.path / "folder").mkdir()
        (mount.path / "folder" / f"of {mount.path.parent.name}").write_bytes(b"x")
    for mount in pair:
        pair.store(mount)
    names = {"of a", "of b"}
    for mount in pair:
        wait_until(partial(shows, mount.path / "folder", names))
    listed = {row["name"] for row in connection.get_container(container)[1]}
    assert listed == {"folder", "folder/of a", "folder/of b"}


def test_a_folder_is_removed_while_the_other_mount_works_in_it(pair: Pair) -> None:
    (pair.one.path / "folder").mkdir()
    (pair.one.path / "folder" / "file").write_bytes(b"x")
    pair.seen(lambda root: (root / "folder" / "file").exists())
    inside = os.open(pair.other.path / "folder", os.O_RDONLY | os.O_DIRECTORY)
    try:
        (pair.one.path / "folder" / "file").unlink()
        (pair.one.path / "folder").rmdir()
        pair.seen(lambda root: not (root / "folder").exists())
        wait_until(lambda: is_gone("file", inside))
    finally:
        os.close(inside)


def test_a_write_into_a_folder_that_was_removed_creates_it_again(pair: Pair) -> None:
    """Before the listing expires: the new file implies its folder."""
    (pair.one.path / "folder").mkdir()
    pair.seen(lambda root: (root / "folder").exists())
    assert os.listdir(pair.other.path / "folder") == []  # noqa: PTH208
    (pair.one.path / "folder").rmdir()
    pair.store(pair.one)
    (pair.other.path / "folder" / "file").write_bytes(b"x")
    pair.store(pair.other)
    wait_until((pair.one.path / "folder" / "file").exists)
    wait_until((pair.other.path / "folder" / "file").exists)


def test_a_write_to_an_open_file_that_was_deleted_creates_it_again(
    pair: Pair, connection: Connection, container: str
) -> None:
    (pair.one.path / "file").write_bytes(b"first")
    pair.seen(lambda root: (root / "file").exists())
    with (pair.other.path / "file").open("r+b") as stream:
        assert stream.read(5) == b"first"
        (pair.one.path / "file").unlink()
        pair.store(pair.one)
        stream.write(b" and last")
    pair.store(pair.other)
    assert connection.get_object(container, "file")[1] == b"first and last"
    wait_until((pair.one.path / "file").exists)


def test_a_write_to_a_file_that_the_other_mount_renamed_stores_the_old_name(
    pair: Pair, connection: Connection, container: str
) -> None:
    (pair.one.path / "folder").mkdir()
    (pair.one.path / "folder" / "file").write_bytes(b"first")
    pair.seen(lambda root: (root / "folder" / "file").exists())
    with (pair.other.path / "folder" / "file").open("r+b") as stream:
        assert stream.read(5) == b"first"
        (pair.one.path / "folder").rename(pair.one.path / "renamed")
        stream.write(b" and last")
    pair.store(pair.other)
    assert connection.get_object(container, "folder/file")[1] == b"first and last"
    assert connection.get_object(container, "renamed/file")[1] == b"first"
    wait_until((pair.one.path / "folder" / "file").exists)
    wait_until((pair.other.path / "renamed" / "file").exists)


def changed_file(what: str) -> bytes | None:
    """Return what a large file holds after a change, None when it is gone."""
    old, new = versions()
    return {"patch": b"changed" + old[7:], "replace": new}.get(what)


def change(path: Path, what: str) -> None:
    """Change a large file, as the other mount renames it."""
    if what == "patch":
        with path.open("r+b") as stream:
            stream.write(b"changed")
    elif what == "replace":
        path.write_bytes(versions()[1])
    else:
        path.unlink()


def bodies(connection: Connection, container: str) -> dict[str, bytes]:
    """Return what each object that is not empty holds."""
    rows = [row["name"] for row in connection.get_container(container)[1] if row["bytes"]]
    return {name: connection.get_object(container, name)[1] for name in rows}


def has(connection: Connection, container: str, key: str) -> bool:
    """Say whether Swift has an object."""
    return key in [row["name"] for row in connection.get_container(container)[1]]


@pytest.mark.matrix(1)
@pytest.mark.parametrize("what", ["patch", "replace", "remove"])
def test_a_large_file_changes_while_the_other_renames_it(
    pair: Pair, swift: SwiftServer, connection: Connection, container: str, what: str
) -> None:
    """The kernel begins a rename again that found a newer version: then that one is renamed."""
    (pair.one.path / "old").write_bytes(versions()[0])
    pair.seen(lambda root: (root / "old").exists())
    pair.other.expected += ["had lost its segments", "ESTALE"]
    swift.inject(Fault("HEAD", f"/{container}/old", delay=ALMOST_TOO_LONG, times=1))
    with ThreadPoolExecutor(1) as pool:
        renamed = pool.submit((pair.other.path / "old").rename, pair.other.path / "new")
        wait_until(lambda: has(connection, container, "new"))
        change(pair.one.path / "old", what)
        pair.store(pair.one)
        swift.end_delays()
        if what == "remove":
            with pytest.raises(FileNotFoundError):
                renamed.result()
        else:
            renamed.result()
    found = bodies(connection, container)
    body = changed_file(what)
    assert found == ({} if body is None else {"new": body})
    assert shows(pair.other.path, set(found))
    for name, data in found.items():
        assert (pair.other.path / name).read_bytes() == data


@pytest.mark.matrix(2)
@pytest.mark.parametrize("what", ["patch", "replace", "remove"])
def test_a_large_file_changes_while_the_other_renames_its_folder(
    pair: Pair, swift: SwiftServer, connection: Connection, container: str, what: str
) -> None:
    (pair.one.path / "d").mkdir()
    for name in ("file", "stays"):
        (pair.one.path / "d" / name).write_bytes(versions()[0])
    pair.seen(lambda root: (root / "d" / "file").exists() and (root / "d" / "stays").exists())
    pair.other.expected.append("had lost its segments")
    swift.inject(Fault("COPY", "/d/stays", delay=ALMOST_TOO_LONG, times=1))
    with ThreadPoolExecutor(1) as pool:
        renamed = pool.submit((pair.other.path / "d").rename, pair.other.path / "e")
        wait_until(lambda: has(connection, container, "e/file"))
        change(pair.one.path / "d" / "file", what)
        pair.store(pair.one)
        swift.end_delays()
        renamed.result()
    body = changed_file(what)
    expected = {} if body is None else {"d/file": body}
    assert bodies(connection, container) == {"e/stays": versions()[0], **expected}


def test_both_rename_a_large_file_at_once(
    pair: Pair, swift: SwiftServer, connection: Connection, container: str
) -> None:
    (pair.one.path / "old").write_bytes(versions()[0])
    pair.seen(lambda root: (root / "old").exists())
    swift.inject(Fault("DELETE", f"/{container}/old", delay=ALMOST_TOO_LONG, times=1))
    with ThreadPoolExecutor(1) as pool:
        renamed = pool.submit((pair.other.path / "old").rename, pair.other.path / "new")
        wait_until(lambda: has(connection, container, "new"))
        (pair.one.path / "old").rename(pair.one.path / "theirs")
        swift.end_delays()
        renamed.result()
    (pair.one.path / "theirs").unlink()
    pair.store(pair.one)
    assert bodies(connection, container) == {"new": versions()[0]}


class UsersMount(Mount):
    """A mount in which replaced segments rest, as in that of a user."""

    program = (mount_with_rests.__file__,)


@pytest.mark.matrix(2)
@pytest.mark.parametrize("ahead", [0.0, 0.1, 0.2, 0.4])
def test_two_changes_of_a_large_file_at_the_same_moment(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path, ahead: float
) -> None:
    """Each of the two changes another segment. The later upload wins, whole."""
    old = noise(6 * MIB)
    connection.put_container(container)
    options = "segment_size=1M,settle=0.2,ttl=0"
    changes = {"a": (3, 0.0), "b": (3_500_000, ahead)}

    def change(mount: Mount, offset: int, pause: float) -> None:
        time.sleep(pause)
        with (mount.path / "file").open("r+b") as file:
            file.seek(offset)
            file.write(b"PATCH")
        assert flush(mount.path, lambda _report: None).unflushed == 0

    with ExitStack() as stack:
        mounts = {
            name: stack.enter_context(UsersMount(swift, container, tmp_path / name, options))
            for name in changes
        }
        (mounts["a"].path / "file").write_bytes(old)
        assert flush(mounts["a"].path, lambda _report: None).unflushed == 0
        assert (mounts["b"].path / "file").read_bytes() == old
        before = segment_names(connection, container)
        swift.inject(Fault(path=f"/{container}", delay=0.1))
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda name: change(mounts[name], *changes[name]), changes))
        swift.clear_faults()
        wanted = [old[:offset] + b"PATCH" + old[offset + 5 :] for offset, _ in changes.values()]
        wanted.append(wanted[0][:3_500_000] + wanted[1][3_500_000:])  # one after the other

        def read() -> bytes:
            return bytes(connection.get_object(container, "file")[1])

        assert read() in wanted
        # What was replaced has rested: now it would be missing. How many stay depends on who looked when: the
        # second mount copies what it keeps if it sees the first one's version, whose segments stay then.
        wait_until(lambda: before - segment_names(connection, container))
        assert read() in wanted
    assert read() in wanted


@pytest.mark.parametrize("folder", ["", "logs/"])
def test_a_large_file_is_renamed_before_the_change_of_another_mount_is_stored(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path, folder: str
) -> None:
    """Both files are whole: the renamed one, and what the other mount has stored at the old name."""
    old = noise(3 * MIB + 1000)
    connection.put_container(container)
    options = "segment_size=1M,settle=60,ttl=0"
    with ExitStack() as stack:
        one, other = (
            stack.enter_context(UsersMount(swift, container, tmp_path / name, options)) for name in "ab"
        )
        before, after = f"{folder}log", f"{folder.replace('logs', 'old')}log.1"
        (one.path / folder).mkdir(exist_ok=True)
        (one.path / before).write_bytes(old)
        assert flush(one.path, lambda _report: None).unflushed == 0
        with (other.path / before).open("ab") as file:
            file.write(b"line\n")
        if folder:
            (one.path / "logs").rename(one.path / "old")
            (one.path / "old/log").rename(one.path / after)
        else:
            (one.path / before).rename(one.path / after)
        assert flush(other.path, lambda _report: None).unflushed == 0
        rested = time.monotonic() + 3  # longer than replaced segments rest
        wait_until(lambda: time.monotonic() > rested)
    assert bodies(connection, container) == {before: old + b"line\n", after: old}
