"""Large objects of other clients whose manifests have bytes of their own, between the segments or behind."""

import json
import os
import shutil
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pytest
from swiftclient import Connection

from support.commands import swiftfs
from support.mounts import Mount
from support.noise import OLD
from swiftfs.demo.server import Fault, SwiftServer

MIB = 1024**2
PART = OLD
HEAD, TAIL = b"head\n", b"the tail"
FILM = HEAD + PART + TAIL

pytestmark = pytest.mark.mount_options("segment_size=1M,settle=0.2")


@pytest.fixture
def film(connection: Connection, container: str) -> str:
    """The name of an object with bytes of its own before and behind one segment."""
    return store_film(connection, container, "film")


def store_film(connection: Connection, container: str, key: str) -> str:
    segments = f"{container}_segments"
    connection.put_container(segments)
    part = f"{key}/slo/1600000000.0/{len(PART)}/{len(PART)}/00000000"
    connection.put_object(segments, part, PART)
    entries = [
        {"data": b64encode(HEAD).decode()},
        {"path": f"/{segments}/{part}"},
        {"data": b64encode(TAIL).decode()},
    ]
    connection.put_object(container, key, json.dumps(entries), query_string="multipart-manifest=put")
    return key


def flush(mounted: Mount) -> None:
    result = swiftfs("flush", mounted.path)
    assert result.returncode == 0, result


def names(connection: Connection, container: str) -> list[str]:
    return [row["name"] for row in connection.get_container(container)[1]]


def overwrite(path: Path) -> bytes:
    path.write_bytes(b"new")
    return b"new"


def append(path: Path) -> bytes:
    with path.open("ab") as file:
        file.write(b"!")
    return FILM + b"!"


def patch(path: Path, at: int) -> bytes:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"X")
        os.fsync(file.fileno())
    return FILM[:at] + b"X" + FILM[at + 1 :]


def cut(path: Path, size: int) -> bytes:
    os.truncate(path, size)
    return FILM[:size]


CHANGES: dict[str, Callable[[Path], bytes]] = {
    "overwrite": overwrite,
    "append": append,
    "patch of inline bytes": lambda path: patch(path, 1),
    "patch of a segment": lambda path: patch(path, MIB + 7),
    "patch of the end": lambda path: patch(path, len(FILM) - 2),
    "truncation in the segment": lambda path: cut(path, 2 * MIB),
    "truncation in the inline bytes": lambda path: cut(path, len(FILM) - 2),
    "truncation to the first inline bytes": lambda path: cut(path, 3),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change(mounted: Mount, connection: Connection, container: str, film: str, change: str) -> None:
    path = mounted.path / film
    assert path.read_bytes() == FILM
    expected = CHANGES[change](path)
    assert path.read_bytes() == expected
    flush(mounted)
    assert connection.get_object(container, film)[1] == expected
    path.unlink()
    flush(mounted)
    assert names(connection, container) == []
    assert names(connection, f"{container}_segments") == []


def test_a_change_without_reading_it_before(
    mounted: Mount, connection: Connection, container: str, film: str
) -> None:
    expected = append(mounted.path / film)
    flush(mounted)
    assert connection.get_object(container, film)[1] == expected


def test_renames_copies_and_attributes(mounted: Mount, connection: Connection, container: str) -> None:
    for key in ("film", "folder/film", "gone"):
        store_film(connection, container, key)
    film, gone = mounted.path / "film", mounted.path / "gone"
    assert os.getxattr(film, "swift.segments") == b"1"
    os.setxattr(film, "user.note", b"seen")
    film.rename(mounted.path / "renamed")
    (mounted.path / "folder").rename(mounted.path / "moved")
    shutil.copyfile(mounted.path / "renamed", mounted.path / "copy")
    gone.unlink()
    flush(mounted)
    for key in ("renamed", "moved/film", "copy"):
        assert connection.get_object(container, key)[1] == FILM
    assert "gone" not in names(connection, container)
    assert not [name for name in names(connection, f"{container}_segments") if name.startswith("gone/")]


def test_commands(swift: SwiftServer, connection: Connection, container: str, tmp_path: Path) -> None:
    store_film(connection, container, "film")
    for name in ("film", "copy"):
        (tmp_path / name).write_bytes(FILM)
    environment = swift.environment()
    for words in (
        ("cp", f"{container}/film", f"{container}/copy"),
        ("check", container),
        ("check", container, "--against", tmp_path),
        ("gc", container),
    ):
        result = swiftfs(*words, environment=environment)
        assert result.returncode == 0, result
    assert connection.get_object(container, "copy")[1] == FILM
    connection.delete_object(container, "film")
    assert connection.get_object(container, "copy")[1] == FILM


def test_an_unknown_entry_is_told_and_not_tried_again(
    mounted: Mount, connection: Connection, container: str, film: str
) -> None:
    connection.put_object(container, "other", b"")
    answer = Fault(
        "GET",
        r"/film\?multipart-manifest=get",
        status=200,
        headers={"X-Static-Large-Object": "True"},
        body=json.dumps([{"link": "/box/part"}]),
    )
    mounted.swift.inject(answer)
    mounted.expected.append("an entry of an unknown kind")
    (mounted.path / film).unlink()
    result = swiftfs("flush", mounted.path)
    text = f'the manifest of {container}/film has an entry of an unknown kind: {{"link": "/box/part"}}'
    assert result.returncode == 1
    assert text in result.stderr
    assert film in names(connection, container)
    asked = sum("multipart-manifest=get" in one.query for one in mounted.swift.requests())
    assert asked == 1
    mounted.swift.clear_faults()
    (mounted.path / film).unlink()
    flush(mounted)
    assert names(connection, container) == ["other"]


@pytest.mark.mount_options("segment_size=1M,settle=0.2,trash=30")
def test_the_trash(mounted: Mount, connection: Connection, container: str, film: str) -> None:
    (mounted.path / film).unlink()
    flush(mounted)
    (key,) = names(connection, container)
    assert key != film
    assert connection.get_object(container, key)[1] == FILM
    result = swiftfs("trash", "restore", container, film, environment=mounted.swift.environment())
    assert result.returncode == 0, result
    assert connection.get_object(container, film)[1] == FILM


def test_a_copy_on_the_server_within_the_mount(
    mounted: Mount, connection: Connection, container: str, film: str
) -> None:
    source = os.open(mounted.path / film, os.O_RDONLY)
    target = os.open(mounted.path / "part", os.O_RDWR | os.O_CREAT)
    done = 0
    while done < len(FILM):
        done += os.copy_file_range(source, target, len(FILM) - done)
    os.close(source)
    os.close(target)
    flush(mounted)
    assert connection.get_object(container, "part")[1] == FILM
