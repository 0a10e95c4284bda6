"""Manifests as Swift answers them."""

import json
from typing import Any

import pytest

from swiftfs.errors import Corrupt, UnknownManifest
from swiftfs.store.wire.manifests import MAX_INLINE, manifest_from_wire, named_objects

PART = {"name": "/c/part", "bytes": 3, "hash": "900150983cd24fb0d6963f7d28e17f72"}


def body_of(*entries: Any) -> list[bytes]:
    return [json.dumps(entries).encode()]


@pytest.mark.parametrize("entry", [{"link": "/c/part"}, {}])
def test_an_entry_of_an_unknown_kind_is_an_error_that_names_it(entry: dict[str, Any]) -> None:
    with pytest.raises(UnknownManifest) as caught:
        manifest_from_wire(body_of(PART, entry), "c/film")
    assert str(caught.value) == f"the manifest of c/film has an entry of an unknown kind: {json.dumps(entry)}"
    assert not caught.value.retryable


@pytest.mark.parametrize(
    "entry",
    [
        {"name": None},
        {"name": "/c/part"},
        {**PART, "bytes": -1},
        {**PART, "bytes": "3"},
        {**PART, "name": "/c"},
        {**PART, "hash": 3},
        {**PART, "range": "2-5"},
        {"data": ""},
        {"data": "no base64"},
        {"data": 3},
    ],
)
def test_a_wrong_entry_may_be_right_in_another_answer(entry: dict[str, Any]) -> None:
    with pytest.raises(Corrupt) as caught:
        manifest_from_wire(body_of(PART, entry), "c/film")
    assert str(caught.value) == f"the manifest of c/film has a wrong entry: {json.dumps(entry)}"


def test_the_names_of_an_unknown_manifest_are_known() -> None:
    found = named_objects(body_of(PART, {"link": "/c/other"}), "c/film")
    assert [str(name) for name, _ in found.objects] == ["c/part"]
    assert found.manifest is None
    with pytest.raises(UnknownManifest):
        named_objects(body_of({"name": 3}), "c/film")


def test_a_long_entry_is_one_text() -> None:
    long = {"data": "YWJj" * 200_000}
    assert manifest_from_wire(body_of(PART, long, PART), "c/film").size == 600_006
    wrongs: list[dict[str, Any]] = [{"data": "YWJj" * (MAX_INLINE // 4 + 50_000)}, {"data": [{}] * 200_000}]
    for wrong in wrongs:
        text = body_of(PART, wrong)[0]
        with pytest.raises(Corrupt):
            manifest_from_wire([text[at : at + 65_536] for at in range(0, len(text), 65_536)], "c/film")
