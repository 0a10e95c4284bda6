"""`swiftfs probe`: what it finds, what it advises, and that it leaves nothing behind."""

import pytest

from support.memory_store import MemoryStore
from support.options import parse_options
from support.probes import probe_of
from support.stored_objects import refuse
from support.stores import put
from swiftfs.cli.probe import Finding, PermissionProbe, advice
from swiftfs.errors import AccessDenied, QuotaExceeded, Unavailable
from swiftfs.objects import Limits, ObjectName
from swiftfs.paths import Source


def test_refusals_become_advice() -> None:
    store = MemoryStore("box")
    refuse(store, "create_container", AccessDenied("403"))
    findings = probe_of(store)
    assert findings["segments"] == Finding("segments", "box_segments cannot be created: 403", "segments=same")
    refuse(store, "put", AccessDenied("403"))
    findings = probe_of(store)
    assert findings["may write"] == Finding("may write", "no: mounts are read-only (403)", "ro")
    assert "upload" not in findings


def test_a_full_quota_makes_no_mount_read_only() -> None:
    store = MemoryStore("box")
    refuse(store, "put", QuotaExceeded("413 Upload exceeds quota."))
    findings = probe_of(store)
    text = 'no: there is no room: programs get "Disk quota exceeded", and changes wait for some'
    assert findings["may write"] == Finding("may write", f"{text} (413 Upload exceeds quota.)")
    assert advice(list(findings.values())) == ""
    assert "upload" not in findings


@pytest.mark.parametrize(
    ("method", "subject", "text"),
    [
        ("list_page", "may list", "no: nothing can be mounted (403)"),
        ("get", "may read", "no: files show, but cannot be opened (403)"),
        ("post", "may change attributes (POST)", "no: chmod, chown and touch fail"),
        (
            "copy",
            "may copy on the server (COPY)",
            "no: files and folders that are in Swift",
        ),
        ("delete", "may delete", "no: rm and mv fail (403)"),
        ("create_container", "may create containers", "no: segments of large files go to box itself"),
    ],
)
def test_each_permission_has_a_verdict(method: str, subject: str, text: str) -> None:
    store = MemoryStore("box")
    findings = list(PermissionProbe(store, Source("box"), lambda key: ObjectName("box", key)).run())
    assert {one.subject: one.text for one in findings}[subject] == "yes"
    refuse(store, method, AccessDenied("403"))
    findings = list(PermissionProbe(store, Source("box"), lambda key: ObjectName("box", key)).run())
    verdicts = {one.subject: one.text for one in findings}
    assert verdicts.pop(subject).startswith(text)
    assert set(verdicts.values()) == {"yes"}


def test_who_may_only_read_is_asked_to_read_what_is_there() -> None:
    store = MemoryStore("box")
    refuse(store, "put", AccessDenied("403"))
    assert probe_of(store)["may read"].text == "not known: there is no object to read"
    store.hook = None
    put(store, "box", "file", b"text")
    refuse(store, "put", AccessDenied("403"))
    assert probe_of(store)["may read"].text == "yes"


def test_without_slo_no_large_object_is_tried() -> None:
    assert probe_of(MemoryStore("box", limits=Limits(slo=False)))["large objects"].text == "none (no SLO)"


def test_an_aborted_probe_cleans_up() -> None:
    store = MemoryStore("box")
    store.hook = lambda method, _subject: _break(method == "put_manifest")
    with pytest.raises(Unavailable):
        probe_of(store)
    store.hook = None
    assert store.list_page("box").rows == ()


def _break(broken: bool) -> None:
    if broken:
        raise Unavailable("down")


def test_advice_names_each_option_once_and_is_accepted() -> None:
    findings = [
        Finding("a", "", "connections=16"),
        Finding("b", "", "connections=16"),
        Finding("c", "", "ro"),
    ]
    assert advice(findings) == "connections=16,ro"
    assert parse_options([advice(findings)]).connections == 16
