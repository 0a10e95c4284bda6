"""What `swiftfs cp` and `swiftfs share` take for a name in Swift, and of which account a mount must be."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from support.mount_states import STATE
from swiftfs.cli import connection
from swiftfs.cli.connection import Place, find_place
from swiftfs.control.mount_table import MountEntry
from swiftfs.errors import ConfigurationError
from swiftfs.objects import ObjectName


@pytest.mark.parametrize(
    ("text", "container", "key", "must_be_folder", "contents"),
    [
        ("box", "box", "", False, False),
        ("box/", "box", "", True, False),
        ("box/.", "box", "", False, True),
        ("box/d/file", "box", "d/file", False, False),
        ("swift:box/d/", "box", "d", True, False),
        ("swift:box/d/.", "box", "d", False, True),
        ("box/a//b", "box", "a//b", False, False),
        ("box/ü 100%.txt", "box", "ü 100%.txt", False, False),
    ],
)
def test_a_name_outside_of_mounts(
    text: str, container: str, key: str, must_be_folder: bool, contents: bool
) -> None:
    assert find_place(text) == Place(text, ObjectName(container, key), must_be_folder, contents)


@pytest.mark.parametrize("text", ["/box/file", "./box", "../box/file", "~/box", ".", ".."])
def test_a_path_outside_of_mounts_is_refused(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="is not in a swiftfs mount"):
        find_place(text)


@pytest.mark.parametrize("text", ["swift:/", "swift:", ""])
def test_an_account_is_no_place(text: str) -> None:
    with pytest.raises(ConfigurationError, match="CONTAINER"):
        find_place(text)


def test_a_mount_of_another_account_project_or_region_is_refused() -> None:
    here = replace(STATE.server, account="auth (user u)", place="/v1/AUTH_here KR")
    place = Place("a", ObjectName("box", "a"), mount=replace(STATE, server=here))
    place.check_account("auth (user u)", "/v1/AUTH_here KR")
    with pytest.raises(ConfigurationError, match="and the credentials here are of"):
        place.check_account("auth (user v)", "/v1/AUTH_here KR")
    with pytest.raises(ConfigurationError, match="another project or region"):
        place.check_account("auth (user u)", "/v1/AUTH_other KR")
    older = Place("a", ObjectName("box", "a"), mount=replace(STATE, server=replace(here, place="")))
    older.check_account("auth (user u)", "/v1/AUTH_other KR")  # a mount of an older release does not say it


def test_mounts_of_other_containers_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not answer would hold up each command about another container."""
    sources = ["box", "box/below", "other", "", "box2"]
    entries = [MountEntry(number, Path(f"/mnt/{number}"), source) for number, source in enumerate(sources)]
    asked: list[Path] = []

    def read(mountpoint: Path) -> None:
        asked.append(mountpoint)
        raise ConfigurationError("of another user")

    monkeypatch.setattr(connection, "mount_entries", lambda _table: entries)
    monkeypatch.setattr(connection, "read_state", read)
    assert connection.mounts_here("box") == {}
    assert asked == [entries[number].mountpoint for number in (0, 1, 3)]
    connection.mounts_here("")
    assert len(asked) == 3 + len(entries)
