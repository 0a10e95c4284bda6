"""Who else can write to a file or folder: modes, groups and access control lists."""

import errno
import grp
import os
import pwd
import struct
from pathlib import Path

import pytest

from support.other_users import NOBODY, as_root
from swiftfs.store.private_files import others_can_write

ME = pwd.getpwuid(os.geteuid())
SOMEBODY = pwd.struct_passwd(("somebody", "x", 4242, 4242, "", "/", "/bin/sh"))
USER, OWNING_GROUP, GROUP, MASK = 0x02, 0x04, 0x08, 0x10


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder of this user's primary group, which may write to it."""
    folder = tmp_path / "folder"
    folder.mkdir()
    os.chown(folder, -1, ME.pw_gid)
    folder.chmod(0o770)
    return folder


def be_in_group(monkeypatch: pytest.MonkeyPatch, *, name: str, members: list[str]) -> None:
    """Let every group have this name and these members."""
    monkeypatch.setattr(grp, "getgrgid", lambda gid: grp.struct_group((name, "x", gid, members)))


def others_write(place: Path) -> bool:
    return others_can_write(place, place.stat())


@pytest.mark.parametrize("members", [[], [ME.pw_name]])
def test_the_private_group_of_the_user(
    place: Path, monkeypatch: pytest.MonkeyPatch, members: list[str]
) -> None:
    monkeypatch.setattr(pwd, "getpwall", lambda: [ME, SOMEBODY])
    be_in_group(monkeypatch, name=ME.pw_name, members=members)
    assert not others_write(place)


@pytest.mark.parametrize(
    ("name", "members", "users"),
    [
        ("staff", [], [ME]),
        (ME.pw_name, ["somebody"], [ME]),
        (ME.pw_name, [], [ME, pwd.struct_passwd((*SOMEBODY[:3], ME.pw_gid, *SOMEBODY[4:]))]),
    ],
    ids=["another name", "another member", "another user's primary group"],
)
def test_a_group_with_others(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    members: list[str],
    users: list[pwd.struct_passwd],
) -> None:
    monkeypatch.setattr(pwd, "getpwall", lambda: users)
    be_in_group(monkeypatch, name=name, members=members)
    assert others_write(place)
    place.chmod(0o750)
    assert not others_write(place)


@as_root
def test_a_group_that_nobody_knows(place: Path) -> None:
    os.chown(place, -1, 54321)
    assert others_write(place)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ((USER, 7, NOBODY), True),
        ((USER, 5, NOBODY), False),
        ((USER, 7, os.geteuid()), False),
        ((GROUP, 7, NOBODY), True),
        ((GROUP, 5, NOBODY), False),
    ],
)
def test_an_access_control_list(
    place: Path, monkeypatch: pytest.MonkeyPatch, entry: tuple[int, int, int], expected: bool
) -> None:
    be_in_group(monkeypatch, name=ME.pw_name, members=[])
    monkeypatch.setattr(pwd, "getpwall", lambda: [ME])
    nobody = 0xFFFFFFFF
    groups = [(OWNING_GROUP, 7, nobody), entry] if entry[0] == GROUP else [entry, (OWNING_GROUP, 7, nobody)]
    entries = [(1, 7, nobody), *groups, (MASK, 7, nobody), (0x20, 0, nobody)]
    value = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *one) for one in entries)
    try:
        os.setxattr(place, "system.posix_acl_access", value)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            pytest.skip("no access control lists on this file system")
        raise
    assert others_write(place) == expected
    be_in_group(monkeypatch, name="staff", members=[])
    assert others_write(place)
