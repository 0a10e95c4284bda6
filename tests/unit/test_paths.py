"""Names: every object has one path, every path names one object, and no path leaves the mount."""

import errno

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from swiftfs.errors import ConfigurationError
from swiftfs.objects import ObjectName
from swiftfs.paths import (
    Folder,
    Source,
    escape,
    is_below,
    join,
    plain_marker,
    slash_marker,
    split,
    unescape,
)

TRICKY = st.lists(
    st.sampled_from(["%", "%%", "empty", "dot", "dotdot", "file", ".", "..", "a", "\n", "漢"]), max_size=6
).map("".join)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), max_size=12)
COMPONENTS = TRICKY | TEXT
KEYS = st.lists(COMPONENTS, min_size=1, max_size=5).map("/".join).filter(bool)


@given(COMPONENTS, st.booleans())
@example("", True)
@example("%file", True)
@example("a%", True)
@example("a%file%", True)
@example("%empty%file", False)
@example("%%dotdot", False)
@example("a\n%file", False)
def test_unescape_undoes_escape(component: str, shadowed: bool) -> None:
    assert unescape(escape(component, shadowed=shadowed)) == (component, shadowed)


@given(COMPONENTS, st.booleans())
def test_a_file_name_is_legal(component: str, shadowed: bool) -> None:
    name = escape(component, shadowed=shadowed)
    assert name not in {"", ".", ".."}
    assert "/" not in name
    assert "\0" not in name


@given(COMPONENTS, COMPONENTS, st.booleans(), st.booleans())
def test_no_two_components_share_a_name(one: str, other: str, first: bool, second: bool) -> None:
    same = (one, first) == (other, second)
    assert (escape(one, shadowed=first) == escape(other, shadowed=second)) == same


@given(TEXT.filter(lambda text: "%" not in text and text not in {"", ".", ".."}))
def test_ordinary_names_stay_as_they_are(component: str) -> None:
    assert escape(component) == component
    assert unescape(component) == (component, False)


@given(KEYS, st.booleans())
@example("/a", False)
@example("a//b", True)
@example("../x", False)
@example("d/", False)
def test_the_path_of_a_key_leads_to_the_key(key: str, shadowed: bool) -> None:
    *folders, last = key.split("/")
    path = "/" + "/".join([*map(escape, folders), escape(last, shadowed=shadowed)])
    for source in (Source("box"), Source("box", "sub/")):
        assert source.object(path) == ObjectName("box", source.prefix + key)


@given(st.lists(COMPONENTS.filter(lambda name: name not in {"", ".", ".."}), min_size=1, max_size=5))
def test_no_path_leaves_the_mount(names: list[str]) -> None:
    """Whatever names the kernel hands over, the object lies below the mounted prefix."""
    path = "/" + "/".join(names)
    try:
        target = Source("box", "sub/").object(path)
    except NotADirectoryError:
        assert any(unescape(name)[1] for name in names[:-1])
        return
    assert target.container == "box"
    assert target.key.startswith("sub/")
    assert target.key.count("/") == len(names)


def test_a_key_is_at_most_1024_bytes() -> None:
    source = Source("box", "p/")
    assert source.object("/" + "ü" * 511).key == "p/" + "ü" * 511
    with pytest.raises(OSError, match="too long") as caught:
        source.object("/" + "ü" * 512)
    assert caught.value.errno == errno.ENAMETOOLONG


def test_the_second_name_of_an_object_is_no_folder() -> None:
    with pytest.raises(NotADirectoryError):
        Source("box").object("/a%file/b")
    assert Source("box").object("/a%%file/b") == ObjectName("box", "a%file/b")


def test_an_account_holds_containers_only() -> None:
    source = Source.parse("/")
    assert source.is_account
    assert source.folder("/box") == Folder("box", "")
    assert source.folder("/box/a/b") == Folder("box", "a/b/")
    assert source.object("/box/a") == ObjectName("box", "a")
    with pytest.raises(PermissionError):
        source.object("/box")


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("/", Source("")),
        ("box", Source("box")),
        ("box/", Source("box")),
        ("box/a/b", Source("box", "a/b/")),
        ("box/a/", Source("box", "a/")),
        ("swift:/", Source("")),
        ("swift:box/a", Source("box", "a/")),
        ("swift:swift:box", Source("swift:box")),
    ],
)
def test_sources_are_read(text: str, source: Source) -> None:
    assert Source.parse(text) == source
    assert Source.parse(f"swift:{source}") == source


@pytest.mark.parametrize("text", ["", "swift:", "/box", "swift:/box", "x" * 257, "\udcff", "box/\udcff"])
def test_other_sources_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="source"):
        Source.parse(text)


def test_markers() -> None:
    assert plain_marker(Folder("box", "a/b/")) == ObjectName("box", "a/b")
    assert slash_marker(Folder("box", "a/b/")) == ObjectName("box", "a/b/")
    assert plain_marker(Folder("box", "a//")) is None


@given(st.lists(st.sampled_from("abc"), max_size=4), st.sampled_from("abc"))
def test_split_and_join(names: list[str], name: str) -> None:
    parent = "/" + "/".join(names)
    path = join(parent, name)
    assert split(path) == (parent, name)
    assert is_below(path, parent)
    assert not is_below(parent, path)
    assert not is_below(path + "x", path)
