"""Two threads sync the journal at once: what the newer sync records counts, though the older ends last."""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from support.harness import copy_live
from swiftfs.journal import database
from swiftfs.journal.commits import Record
from swiftfs.journal.database import JournalDB
from swiftfs.journal.operations import Delete
from swiftfs.objects import ObjectName


def deletion(seq: int) -> Record:
    return Record(seq, f"/{seq}", Delete(ObjectName("box", f"{seq}"), False))


@pytest.fixture
def journal(cache: Path) -> Iterator[JournalDB]:
    with closing(JournalDB(cache, "box")) as journal:
        yield journal


def overtake(journal: JournalDB, patch: pytest.MonkeyPatch, *, is_done: bool) -> None:
    """Sync a commit, and a second one before that has ended; both operations may be done by then."""

    def commit(seq: int) -> None:
        journal.commit([deletion(seq)])
        if is_done:
            journal.commit(drop=[seq])

    def meanwhile(_folder: Path) -> None:
        patch.setattr(database, "synchronize", lambda _folder: None)
        commit(2)
        journal.sync()

    commit(1)
    patch.setattr(database, "synchronize", meanwhile)
    journal.sync()


def test_what_the_newer_one_has_made_durable_survives_a_power_cut(
    journal: JournalDB, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overtake(journal, monkeypatch, is_done=False)
    copy_live(cache, image := cache.with_name("image"))
    monkeypatch.setattr(database, "boot_id", lambda: "another boot")
    with closing(JournalDB(image, "box")) as after:
        assert [record.path for record in after.records()] == ["/1", "/2"]


def test_after_a_kill_before_the_older_one_ends_nothing_counts_as_damaged(
    journal: JournalDB, cache: Path
) -> None:
    images, fdatasync = list[Path](), os.fdatasync

    def kill(file: int) -> None:
        fdatasync(file)
        images.append(cache.with_name(f"image {len(images)}"))
        copy_live(cache, images[-1])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fdatasync", kill)
        overtake(journal, patch, is_done=True)
    for image in images:
        with closing(JournalDB(image, "box")) as after:
            assert not after.lost_folder.exists()
