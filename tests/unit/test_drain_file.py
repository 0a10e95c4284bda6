"""What a mount says at its end in its cache folder, and what `umount` makes of it."""

import errno
from pathlib import Path

import pytest

from swiftfs.config import cache_dir
from swiftfs.control import unmount
from swiftfs.control.unmount import Drain
from swiftfs.errors import os_error

UNKNOWN = "its process did not say whether everything is stored"


def failure(cache: Path, *, is_held: bool = False) -> str:
    return unmount._failure(cache, is_held=is_held)


def test_a_mount_that_ends_says_what_is_left(tmp_path: Path) -> None:
    Drain(0).write(tmp_path)
    assert failure(tmp_path) == ""
    Drain(0, "1 change stays").write(tmp_path)
    assert failure(tmp_path) == "1 change stays"


@pytest.mark.parametrize("waiting", [0, 3])
def test_a_process_that_did_not_end_in_order_may_leave_changes(tmp_path: Path, waiting: int) -> None:
    Drain(waiting, ended=False).write(tmp_path)
    assert failure(tmp_path).startswith(UNKNOWN)
    assert failure(tmp_path, is_held=True) == ""


@pytest.mark.parametrize("text", ["", "{}", "0", '{"wait'])
def test_what_cannot_be_read_does_not_count_as_stored(tmp_path: Path, text: str) -> None:
    (tmp_path / "drain.json").write_text(text)
    assert failure(tmp_path).startswith(UNKNOWN)


def test_a_folder_that_is_gone_does_not_count_as_stored(tmp_path: Path) -> None:
    assert "No such file or directory" in failure(tmp_path / "gone")


@pytest.mark.parametrize("more", ["", ', "of_a_later_release": 1'])
def test_a_process_of_another_release(tmp_path: Path, more: str) -> None:
    (tmp_path / "drain.json").write_text(f'{{"waiting": 0, "failure": "", "held": false{more}}}')
    assert failure(tmp_path) == ""


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_an_end_is_written_in_place_on_a_full_disk(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    Drain(0, ended=False).write(tmp_path)

    def refuse(path: Path) -> int:
        raise os_error(number, str(path))

    monkeypatch.setattr(cache_dir, "new_file", refuse)
    Drain(0).write(tmp_path)
    assert Drain.read(tmp_path).ended == (number == errno.ENOSPC)
