"""Containers of segments: beside the container, in a hidden folder of it, or one given by an option."""

import logging
from pathlib import Path

import pytest
from msgspec.structs import replace

from support.harness import harness, write
from support.memory_store import MemoryStore
from support.noise import LARGE
from support.stored_objects import body, refuse
from support.stores import put
from swiftfs.errors import AccessDenied, BadContainer, BadRequest, StoreError, Unavailable
from swiftfs.filecache.segment_container import SegmentContainerChooser, may_hold_bytes_of
from swiftfs.filecache.upload_record import segment_prefix
from swiftfs.objects import Limits, ObjectName, Usage
from swiftfs.paths import SEGMENTS_FOLDER, Source
from swiftfs.store.wire.object_headers import symlink_source


def test_without_the_right_to_make_containers_an_existing_one_is_used(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = MemoryStore("box", "box_segments", "other")
    refuse(store, "create_container", AccessDenied("403"))
    caplog.set_level(logging.INFO)
    places = SegmentContainerChooser(store)
    assert str(places.of("box")) == f"box_segments/{SEGMENTS_FOLDER}"
    assert str(places.of("other")) == f"other/{SEGMENTS_FOLDER}"
    assert [record.message for record in caplog.records] == [
        f"segments of other go to other/{SEGMENTS_FOLDER}: 403"
    ]


def test_a_file_that_was_closed_before_the_place_is_known_has_its_segments_there(cache: Path) -> None:
    store = MemoryStore("box")
    refuse(store, "create_container", AccessDenied("403"))
    with harness(store, cache, "segment_size=1M") as filesystem:
        write(filesystem, "/file", LARGE)
        assert body(store, "file") == LARGE
    segments = store.manifest(ObjectName("box", "file")).segments
    assert {one.name.container for one in segments} == {"box"}


@pytest.mark.parametrize("error", [AccessDenied("403"), BadRequest("400")])
def test_a_container_given_by_an_option_is_not_replaced(error: StoreError) -> None:
    store = MemoryStore("box")
    refuse(store, "create_container", error)
    assert str(SegmentContainerChooser(store, "pieces").of("box")) == "pieces/box/.swiftfs-segments"
    # Below a folder of its own name they would be files of the mount.
    assert str(SegmentContainerChooser(store, "box").of("box")) == "box/.swiftfs-segments"


class Policies(MemoryStore):
    """Has two storage policies; `box` has gold, of which no container can be made if it is `deprecated`."""

    def __init__(self, *, deprecated: bool = False, policies: tuple[str, ...] = ("tin", "gold")) -> None:
        super().__init__("box", limits=Limits(policies=policies))
        self.deprecated = deprecated
        self.made: list[tuple[str, str]] = []

    def container_usage(self, container: str) -> Usage:
        return replace(super().container_usage(container), storage_policy="gold")

    def create_container(self, container: str, *, storage_policy: str = "") -> bool:
        if storage_policy and self.deprecated:
            raise BadContainer("400 Storage Policy 'gold' is deprecated")
        self.made.append((container, storage_policy))
        return super().create_container(container)


def test_a_container_of_segments_has_the_storage_policy_of_the_files() -> None:
    store = Policies()
    SegmentContainerChooser(store).of("box")
    assert store.made == [("box_segments", "gold")]


def test_a_policy_that_no_new_container_can_have_is_left_out() -> None:
    store = Policies(deprecated=True)
    assert str(SegmentContainerChooser(store).of("box")) == f"box_segments/{SEGMENTS_FOLDER}"
    assert store.made == [("box_segments", "")]


def test_the_policy_is_not_asked_for_where_there_is_one_only() -> None:
    store = Policies(policies=("gold",))
    SegmentContainerChooser(store).of("box")
    assert ("container_usage", "box") not in store.requests


def test_an_outage_chooses_no_container() -> None:
    store = MemoryStore("box")
    refuse(store, "create_container", Unavailable("down"))
    places = SegmentContainerChooser(store)
    with pytest.raises(Unavailable):
        places.of("box")
    store.hook = None
    assert str(places.of("box")) == f"box_segments/{SEGMENTS_FOLDER}"


def test_a_container_is_created_once_and_again_when_it_is_gone() -> None:
    store = MemoryStore("box")
    places = SegmentContainerChooser(store)
    for _ in range(3):
        places.of("box")
    assert store.requests == [("create_container", "box_segments")]
    places.gone("box")
    places.of("box")
    assert len(store.requests) == 2


def test_a_container_with_segments_is_used_without_a_request() -> None:
    store = MemoryStore("box", "box_segments")
    beside = put(store, "box_segments", "f/1", b"x")
    inside = put(store, "box", f"{SEGMENTS_FOLDER}/f/1", b"x")
    store.requests.clear()
    for segment, place in ((beside, f"box_segments/{SEGMENTS_FOLDER}"), (inside, f"box/{SEGMENTS_FOLDER}")):
        places = SegmentContainerChooser(store)
        places.found("box", [segment])
        assert str(places.of("box")) == place
    assert store.requests == []


def test_the_hidden_folder_can_be_mounted_by_its_name() -> None:
    source = Source.parse(f"box/{SEGMENTS_FOLDER}")
    assert source.object("/f").key == f"{SEGMENTS_FOLDER}/f"
    for path in (f"/{SEGMENTS_FOLDER}", f"/{SEGMENTS_FOLDER}/f"):
        for other in (Source("box"), Source("")):
            with pytest.raises(PermissionError):
                other.object(f"/box{path}" if other.is_account else path)
    assert Source("box").object(f"/d/{SEGMENTS_FOLDER}").key == f"d/{SEGMENTS_FOLDER}"


@pytest.mark.parametrize("choice", ["auto", "same", "pieces"])
def test_the_longest_name_fits_with_every_container(choice: str) -> None:
    name = ObjectName("c" * 256, "k" * 1024)
    place = SegmentContainerChooser(MemoryStore(), choice).likely(name.container)
    segment = place.name(f"{segment_prefix(name)}{0:013d}-{'0' * 12}")
    assert len(segment.key.encode()) <= 1024


HEX = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("segment", "alone", "in_account"),
    [
        ("box/any", True, True),
        ("box_segments/any", True, True),
        ("segments-for-box/any", True, True),
        ("chosen/box/any", True, True),
        (f"once/box/a/b/swiftfs-{HEX}/1", True, True),
        ("private/secret", False, False),
        ("private/box/secret", False, False),
        ("chosen/other/any", False, False),
        ("box_segments2/any", False, False),
        ("other_segments/secret", False, False),
        (f"other_segments/a/swiftfs-{HEX}/1", False, True),
        (f"other/.swiftfs-segments/a/swiftfs-{HEX}/1", False, True),
        ("other_segments/a/slo/1600000000.000000/5/1/00000000", False, True),
        (f"private/a/swiftfs-{HEX}/1", False, False),
        ("/v1/AUTH_other/box/any", False, False),
    ],
)
def test_where_an_object_may_take_its_bytes_from(segment: str, alone: bool, in_account: bool) -> None:
    owner, found = ObjectName("box", "a"), ObjectName.parse(segment)
    assert may_hold_bytes_of(owner, found, "chosen") is alone
    assert may_hold_bytes_of(owner, found, "chosen", whole_account=True) is in_account


@pytest.mark.parametrize(
    ("value", "source"),
    [
        (None, None),
        ("/v1/a/c/o%20x", ObjectName("c", "o x")),
        ("https://example.org/v1/a/c/o?x", ObjectName("c", "o")),
        ("/v1/b/c/o", ObjectName("/v1/b/c/o", "")),
        ("/v1/a", ObjectName("/v1/a", "")),
    ],
)
def test_the_target_of_a_symlink(value: str | None, source: ObjectName | None) -> None:
    headers = {} if value is None else {"content-location": value}
    assert symlink_source(headers, "/v1/a/") == source
