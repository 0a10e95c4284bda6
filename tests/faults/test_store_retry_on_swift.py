"""Which requests are repeated, for how long, and what a lost answer means, on a real Swift."""

import errno
import time

import pytest
from msgspec.structs import replace

from support.deadlines import within
from support.stores import QUICK, TEXT, methods_seen, read
from swiftfs.demo.server import Fault, ServerSettings, SwiftServer
from swiftfs.errors import AccessDenied, AlreadyExists, NotFound, Postponed
from swiftfs.objects import Manifest, ObjectName, Segment
from swiftfs.store.connect import connect
from swiftfs.store.protocol import CopyRequest
from swiftfs.store.retry import RetryingStore

pytest_plugins = ["support.store_fixtures"]


def test_a_lost_delete_succeeds(patient: RetryingStore, swift: SwiftServer, name: ObjectName) -> None:
    swift.inject(Fault("DELETE", name.container, status=500, after=True, times=1))
    patient.delete(name)
    assert methods_seen(swift, name) == [("DELETE", 500), ("DELETE", 404)]
    with pytest.raises(NotFound):
        patient.delete(name)


def test_deleting_a_missing_object_is_not_found(
    patient: RetryingStore, swift: SwiftServer, name: ObjectName
) -> None:
    with pytest.raises(NotFound):
        patient.delete(replace(name, key="absent"))


def test_a_lost_put_if_absent_is_ours(patient: RetryingStore, swift: SwiftServer, name: ObjectName) -> None:
    new = replace(name, key="new")
    swift.inject(Fault("PUT", name.container, reset=True, after=True, times=1))
    info = patient.put(new, b"mine", TEXT, if_absent=True)
    assert (info.version.name, info.size) == (new, 4)
    assert [method for method, _ in methods_seen(swift, name)] == ["PUT", "PUT", "HEAD", "POST"]


def test_a_failed_put_if_absent_does_not_claim_anothers(
    patient: RetryingStore, swift: SwiftServer, name: ObjectName
) -> None:
    swift.inject(Fault("PUT", name.container, status=503, times=1))
    with pytest.raises(AlreadyExists):
        patient.put(name, b"mine", TEXT, if_absent=True)
    assert read(patient, name)[0] == b"content"


def test_a_lost_creation_of_a_container_succeeds(
    patient: RetryingStore, swift: SwiftServer, name: ObjectName
) -> None:
    box = f"{name.container}-lost"
    swift.inject(Fault("PUT", box, status=500, after=True, times=1))
    assert patient.create_container(box) is True
    swift.inject(Fault("DELETE", box, status=500, after=True, times=1))
    patient.delete_container(box)
    with pytest.raises(NotFound):
        patient.container_usage(box)


def test_a_lost_manifest_and_copy_are_sent_again(
    patient: RetryingStore, swift: SwiftServer, name: ObjectName
) -> None:
    part = Segment(name, patient.head(name).version.etag, 7)
    slo, copy = replace(name, key="slo"), replace(name, key="copy")
    swift.inject(Fault("PUT", "multipart-manifest=put", status=500, after=True, times=1))
    patient.put_manifest(slo, Manifest((part, part)), TEXT)
    swift.inject(Fault("COPY", name.container, reset=True, after=True, times=1))
    patient.copy(CopyRequest(slo, copy, manifest_only=True))
    assert read(patient, copy)[0] == b"content" * 2


def test_retry_after_is_honoured(patient: RetryingStore, swift: SwiftServer, name: ObjectName) -> None:
    swift.inject(Fault("HEAD", name.container, status=429, headers={"Retry-After": "1"}, times=1))
    begun = time.monotonic()
    assert patient.head(name).size == 7
    assert 1.0 <= time.monotonic() - begun < within(2.5)


@pytest.mark.parametrize("status", [429, 498, 503])
def test_a_retry_after_beyond_the_deadline_is_not_waited_for(
    patient: RetryingStore, swift: SwiftServer, name: ObjectName, status: int
) -> None:
    swift.inject(Fault("HEAD", name.container, status=status, headers={"Retry-After": "3600"}, times=1))
    begun = time.monotonic()
    with pytest.raises(Postponed, match=r"asks for a pause of 1 h \(until 20") as caught:
        patient.head(name)
    assert time.monotonic() - begun < within(0.9)
    assert errno.errorcode[caught.value.errno] == "EBUSY"
    assert patient.head(name).size == 7


def test_bulk_delete_that_fails_is_repeated(
    patient: RetryingStore, swift: SwiftServer, name: ObjectName
) -> None:
    swift.inject(Fault("POST", "bulk-delete", status=503, times=1))
    assert patient.delete_many([name, replace(name, key="absent")]) == {}
    with pytest.raises(NotFound):
        patient.head(name)


def test_parallel_deletes_report_each_failure() -> None:
    with SwiftServer(settings=ServerSettings(without=frozenset({"bulk"}))) as server:
        connected = connect(server.environment(), policy=QUICK)
        try:
            store = connected.store
            store.create_container("c")
            names = [ObjectName("c", f"n{number}") for number in range(6)]
            for name in names:
                store.put(name, b"", TEXT)
            server.inject(Fault("DELETE", "/n3", status=403))
            server.inject(Fault("DELETE", "/n4", status=503, times=1))
            failures = store.delete_many([*names, ObjectName("c", "absent")])
            assert {name.key: type(error) for name, error in failures.items()} == {"n3": AccessDenied}
            assert [row.key for row in store.list_page("c").rows] == ["n3"]
        finally:
            connected.close()


def test_a_page_says_how_long_its_own_request_took(
    patient: RetryingStore, swift: SwiftServer, name: ObjectName
) -> None:
    """Without those that failed before: a listing is used the longer the slower it is."""
    swift.inject(Fault("GET", name.container, status=503, delay=0.5, times=2))
    begun = time.monotonic()
    page = patient.list_page(name.container)
    assert 0 < page.seconds < time.monotonic() - begun - 2 * 0.5
