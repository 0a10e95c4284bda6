"""`swiftfs probe`: what it finds, what it advises, and that it leaves nothing behind."""

import pytest

from support.memory_store import MemoryStore
from support.probes import probe_of
from swiftfs.config.sources import parse_options
from swiftfs.errors import AccessDenied, Unavailable
from swiftfs.maintenance.server_probe import Finding, advice
from swiftfs.objects import Limits


def test_refusals_become_advice() -> None:
    def hook(method: str, _subject: str) -> None:
        if method == "create_container":
            raise AccessDenied("403")

    store = MemoryStore("box")
    store.hook = hook
    findings = probe_of(store)
    assert findings["segments"] == Finding("segments", "box_segments cannot be created: 403", "segments=same")
    store.hook = lambda method, _subject: _refuse(method == "put")
    assert probe_of(store)["writing"].options == "ro"


def _refuse(refused: bool) -> None:
    if refused:
        raise AccessDenied("403")


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
