"""Folders that are larger than a page of a listing, which has 20 names here, and our own changes in them."""

import os
from collections.abc import Iterator

import pytest
from swiftclient import Connection

from support.jobs import counted, methods, wait_until
from support.mounts import Mount
from swiftfs.control.client import flush
from swiftfs.demo.server import ServerSettings, SwiftServer

PAGE = 20
FILES = 5 * PAGE
OWN_TYPE = "text/plain;mtime=1700000000.000000001;mode=0100640;uid=12;gid=34"


@pytest.fixture(scope="module")
def swift_server() -> Iterator[SwiftServer]:
    """A server whose listings are short."""
    with SwiftServer(settings=ServerSettings(listing_limit=PAGE)) as running:
        yield running


def name(number: int) -> str:
    return f"name{number:04}"


@pytest.fixture
def filled(mounted: Mount) -> Mount:
    """A mount with files of several pages, which Swift has."""
    for number in range(FILES):
        (mounted.path / name(number)).write_bytes(b"x")
    assert flush(mounted.path, lambda _report: None).total == 0
    return mounted


@pytest.mark.slow
@pytest.mark.mount_options("settle=0.1,ttl=1000")
def test_a_page_of_a_listing_says_nothing_about_names_outside_it(swift: SwiftServer, filled: Mount) -> None:
    """Otherwise each of our files behind the first page would cost a HEAD."""
    forget(filled)
    swift.reset_requests()
    wait_until((filled.path / name(1)).exists)
    assert (filled.path / name(FILES - 1)).stat().st_size == 1
    assert methods(swift.requests())["HEAD"] <= 2, methods(swift.requests())
    assert len(list(filled.path.iterdir())) == FILES


@pytest.mark.mount_options("settle=0.1,ttl=1000")
def test_a_deletion_by_another_client_is_seen_on_every_page(
    connection: Connection, container: str, filled: Mount
) -> None:
    for number in (1, PAGE + 1, FILES - 1):
        connection.delete_object(container, name(number))
    forget(filled)
    assert len(list(filled.path.iterdir())) == FILES - 3


def forget(mount: Mount) -> None:
    """Let the mount list all folders again."""
    os.setxattr(mount.path, "swift.refresh", b"1")


def test_a_folder_of_three_pages(mounted: Mount, swift: SwiftServer, container: str) -> None:
    wanted = [name(number) for number in range(2 * PAGE + PAGE // 2)]
    swift.add_rows(container, [f"huge/{one}" for one in wanted])
    swift.reset_requests()
    assert sorted(path.name for path in (mounted.path / "huge").iterdir()) == wanted
    assert sum(1 for _ in os.scandir(mounted.path / "huge")) == len(wanted)
    requests = [one for one in swift.requests() if "prefix=huge/" in one.query]
    assert len([one for one in requests if "limit=1&" not in f"{one.query}&"]) <= 7
    assert all(one.method == "GET" for one in requests)


@pytest.mark.mount_options("mtime=listing")
@pytest.mark.parametrize("listed", [False, True])
def test_own_changes_on_several_pages(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str, listed: bool
) -> None:
    huge = mounted.path / "huge"
    names = {name(number) for number in range(2 * PAGE + 5)}
    swift.add_rows(container, [f"huge/{one}" for one in sorted(names)], size=1)
    first, third, last = name(5), name(2 * PAGE + 1), name(2 * PAGE + 2)
    for changed in (first, third, last):
        connection.put_object(container, f"huge/{changed}", b"x")
    if listed:
        assert set(os.listdir(huge)) == names  # noqa: PTH208  the names are wanted
    (huge / "created").write_bytes(b"created")
    (huge / f"{name(1)}.5").write_bytes(b"between")
    (huge / "folder").mkdir()
    (huge / first).unlink()
    (huge / third).unlink()
    (huge / last).rename(huge / "renamed")
    names |= {"created", f"{name(1)}.5", "folder", "renamed"}
    names -= {first, third, last}
    for _ in range(2):
        found = os.listdir(huge)  # noqa: PTH208  the names are wanted
        assert len(found) == len(set(found))
        assert set(found) == names
        assert not os.path.lexists(huge / third)
        assert (huge / "renamed").read_bytes() == b"x"
        assert (huge / "created").read_bytes() == b"created"
        assert (huge / "folder").is_dir()
        mounted.remount()


@pytest.mark.mount_options("mtime=listing")
def test_names_that_pages_cut_in_two(mounted: Mount, swift: SwiftServer, container: str) -> None:
    """`b` is the last name of a page; `b/` is two pages later, and the names between are on the next."""
    between = PAGE + 1
    names = [f"huge/a{number:05d}" for number in range(PAGE - 1)]
    names += ["huge/b", *[f"huge/b-{number:05d}" for number in range(between)], "huge/b/below"]
    swift.add_rows(container, names, size=1)
    found = os.listdir(mounted.path / "huge")  # noqa: PTH208  the names are wanted
    assert len(found) == len(set(found)) == PAGE - 1 + between + 2
    assert (mounted.path / "huge" / "b").is_dir()
    assert (mounted.path / "huge" / "b%file").stat().st_size == 1
    assert (mounted.path / "huge" / "b-00000").stat().st_size == 1
    assert (mounted.path / "huge" / f"b-{between - 1:05d}").stat().st_size == 1


def test_attributes_in_a_folder_of_two_pages(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    """Attributes of our own files are in the listing of a huge folder too: no HEAD is needed."""
    swift.add_rows(container, [f"huge/{name(number)}" for number in range(PAGE + 1)], size=1)
    for own in ("aaa", "zzz"):
        connection.put_object(container, f"huge/{own}", b"12345", content_type=OWN_TYPE)
    assert len(os.listdir(mounted.path / "huge")) == PAGE + 3  # noqa: PTH208  the names are wanted
    swift.reset_requests()
    for own in ("aaa", "zzz"):
        status = (mounted.path / "huge" / own).stat()
        assert (status.st_size, status.st_mode, status.st_uid, status.st_gid) == (5, 0o100640, 12, 34)
        assert status.st_mtime_ns == 1_700_000_000_000_000_001
    assert not counted(swift)
