"""Changes that wait and are carried along when their folder is renamed."""

import pytest

from swiftfs.journal.carried_tasks import FolderRename, carried_record
from swiftfs.journal.commits import Record
from swiftfs.journal.operations import PutMarker
from swiftfs.objects import ObjectName
from swiftfs.paths import Folder
from swiftfs.store.protocol import Headers


@pytest.mark.parametrize(("key", "expected"), [("d/a", "e/a"), ("d", "e"), ("e/a", "e/a"), ("da", "da")])
def test_a_carried_change_that_a_power_cut_has_put_back_elsewhere_stays_there(
    key: str, expected: str
) -> None:
    rename = FolderRename("/d", "/e", Folder("box", "d/"), Folder("box", "e/"))
    record = Record(1, f"/{key}", PutMarker(ObjectName("box", key), Headers("application/directory")))
    found = carried_record(record, rename)
    assert isinstance(found.operation, PutMarker)
    assert (found.path, found.operation.name) == (f"/{expected}", ObjectName("box", expected))
