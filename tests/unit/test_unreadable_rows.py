"""A listing with rows that say nothing possible: the folder stays usable, and none of its names is free."""

import errno
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from support.harness import ME, change, harness, names, read
from support.memory_store import MemoryStore
from swiftfs.errors import StoreError, errno_of
from swiftfs.objects import ObjectName, Page, Row
from swiftfs.store.protocol import Headers

OURS = "text/plain;mtime=1700000000.5;mode=0100640;uid=0;gid=0"


class OddStore(MemoryStore):
    """A store whose listings have unreadable rows for the names that begin with `odd`."""

    def list_page(self, container: str, **how: Any) -> Page:
        page = super().list_page(container, **how)
        unreadable = tuple(row.key for row in page.rows if row.key.rpartition("/")[2].startswith("odd"))
        rows = tuple(
            Row(row.key, 0, "", "", row.last_modified) if row.key in unreadable else row for row in page.rows
        )
        return replace(page, rows=rows, unreadable=unreadable)


@pytest.fixture
def store() -> OddStore:
    made = OddStore("box")
    for key, content_type, body in (
        ("d/odd", OURS, b"seven b"),
        ("d/odd-foreign", "text/plain", b"of another client"),
        ("d/file", OURS, b"alive"),
        ("alone/odd", OURS, b"x"),
    ):
        made.put(ObjectName("box", key), body, Headers(content_type))
    return made


def failure(call: Callable[[], object]) -> str:
    with pytest.raises((OSError, StoreError)) as caught:
        call()
    return errno.errorcode[errno_of(caught.value)]


def test_the_folder_is_listed_and_its_files_are_read(store: OddStore, tmp_path: Path) -> None:
    with harness(store, tmp_path) as filesystem:
        assert names(filesystem, "/d") == ["file", "odd", "odd-foreign"]
        assert [filesystem.getattr(f"/d/{name}").size for name in ("odd", "odd-foreign", "file")] == [
            7,
            17,
            5,
        ]
        assert read(filesystem, "/d/odd") == b"seven b"
        assert read(filesystem, "/d/odd-foreign") == b"of another client"
        assert stat.S_IMODE(filesystem.getattr("/d/odd").mode) == 0o640
        assert filesystem.getattr("/d/odd").mtime_ns == 1700000000_500000000
        assert filesystem.getattr("/d/odd-foreign").mtime_ns > 10**18
        change(filesystem, "/d/odd", 7, b"new")
    info = store.head(ObjectName("box", "d/odd"))
    assert (info.size, ";mode=0100640;" in info.content_type) == (10, True)


def test_its_names_are_not_free(store: OddStore, tmp_path: Path) -> None:
    with harness(store, tmp_path) as filesystem:
        assert failure(lambda: filesystem.rmdir("/alone")) == "ENOTEMPTY"
        assert failure(lambda: filesystem.mkdir("/d/odd", 0o755, ME)) == "EEXIST"
        assert failure(lambda: filesystem.symlink("x", "/d/odd", ME)) == "EEXIST"
        filesystem.unlink("/d/odd")
        filesystem.rename("/d/odd-foreign", "/d/renamed")
        assert names(filesystem, "/d") == ["file", "renamed"]
        assert read(filesystem, "/d/renamed") == b"of another client"


def test_a_folder_is_not_moved_by_such_rows(store: OddStore, tmp_path: Path, no_retries: None) -> None:
    with harness(store, tmp_path) as filesystem:
        assert failure(lambda: filesystem.rename("/d", "/moved")) == "EIO"
        assert names(filesystem, "/d") == ["file", "odd", "odd-foreign"]
    assert store.head(ObjectName("box", "d/odd")).size == 7
