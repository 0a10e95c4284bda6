"""The states of parts of the file cache and of open files: which may follow which."""

import itertools
from collections.abc import Collection, Mapping
from enum import Enum
from typing import Any

import pytest

from swiftfs.filecache import file_state, segment_storer, upload_record
from swiftfs.filecache.file_state import LocalFile
from swiftfs.filecache.segment_storer import Moment
from swiftfs.filecache.upload_record import PrefixState
from swiftfs.objects import check_transition
from swiftfs.posix import open_file
from swiftfs.posix.open_file import Changes

TABLES: list[tuple[type[Enum], Mapping[Any, Collection[Any]], set[str]]] = [
    (
        PrefixState,
        upload_record.FOLLOWING,
        {
            "UNUSED RECORDED",
            "INHERITED RECORDED",
            "INHERITED UNUSED",
            "RECORDED RECORDED",
            "RECORDED UNUSED",
        },
    ),
    (
        LocalFile,
        file_state.FOLLOWING,
        {"OPEN SUSPENDED", "OPEN CACHED", "OPEN DISCARDED", "DISCARDED DISCARDED"},
    ),
    (
        Changes,
        open_file.FOLLOWING,
        {
            "HANDED_IN DIRTY",
            "HANDED_IN FAILED",
            "DIRTY DIRTY",
            "DIRTY HANDED_IN",
            "DIRTY FAILED",
            "FAILED DIRTY",
            "FAILED HANDED_IN",
            "FAILED FAILED",
        },
    ),
    (
        Moment,
        segment_storer.FOLLOWING,
        {"NEXT SNAPSHOT", "SNAPSHOT SNAPSHOT", "SNAPSHOT MIXED", "MIXED SNAPSHOT", "MIXED MIXED"},
    ),
]


@pytest.mark.parametrize(("states", "following", "possible"), TABLES)
def test_a_transition_that_is_not_in_the_table_is_refused(
    states: type[Enum], following: Mapping[Any, Collection[Any]], possible: set[str]
) -> None:
    for before, after in itertools.product(states, states):
        if f"{before.name} {after.name}" in possible:
            check_transition("it", following, before, after)
        else:
            with pytest.raises(RuntimeError, match="cannot change"):
                check_transition("it", following, before, after)
