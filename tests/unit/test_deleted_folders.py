"""A folder that this mount has deleted with its files: a listing that shows them needs little time."""

from pathlib import Path

import pytest

from support.harness import harness, names
from support.memory_store import MemoryStore
from support.stored_objects import foreign
from swiftfs.namespace.local_change import LocalChange
from swiftfs.namespace.overlay import Overlay
from swiftfs.paths import Folder

COUNT = 300


@pytest.mark.usual
def test_the_changes_of_a_large_folder_are_not_copied_for_each_of_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore("box")
    for number in range(COUNT):
        foreign(store, f"d/{number:03}", b"x")
    copies: list[Folder] = []
    changes_in = Overlay.changes_in

    def counted(overlay: Overlay, folder: Folder) -> dict[str, LocalChange]:
        copies.append(folder)
        return changes_in(overlay, folder)

    monkeypatch.setattr(Overlay, "changes_in", counted)
    with harness(store, tmp_path, "settle=1000") as filesystem:
        for name in names(filesystem, "/d"):
            filesystem.unlink(f"/d/{name}")
        filesystem.rmdir("/d")
        copies.clear()
        filesystem.refresh()
        assert names(filesystem, "/") == []
        assert len(copies) < 10
