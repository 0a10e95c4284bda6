"""Which libfuse serves a mount, and what is said where one is missing or not known."""

import sys
from types import SimpleNamespace

import pytest

from swiftfs.errors import ConfigurationError
from swiftfs.fuse import library, load_binding
from swiftfs.fuse.library import version_number


@pytest.fixture
def without_libfuse3(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make libfuse 3 a library that cannot be loaded."""
    monkeypatch.setattr(library, "LIBFUSE3_NAMES", ("libfuse3.so.none",))
    monkeypatch.delitem(sys.modules, "swiftfs.fuse.libfuse3", raising=False)


@pytest.fixture
def without_libfuse2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make fusepy fail as it does without libfuse 2."""
    monkeypatch.setenv("FUSE_LIBRARY_PATH", "libfuse.so.none")
    monkeypatch.setattr(library, "LIBFUSE2_NAME", "libfuse.so.none")
    for name in ("swiftfs.fuse.libfuse2", "fuse"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_each_version_is_loaded_when_it_is_asked_for() -> None:
    assert load_binding("2").libfuse.version[0] == 2
    assert load_binding("3").libfuse.version[0] == 3
    assert load_binding("auto") is load_binding("3")


@pytest.mark.usefixtures("without_libfuse3")
def test_an_old_machine_gets_libfuse_2() -> None:
    assert load_binding("auto") is load_binding("2")
    with pytest.raises(ConfigurationError, match=r"^libfuse 3 is not installed: apt install fuse3$"):
        load_binding("3")


@pytest.mark.usefixtures("without_libfuse2")
def test_a_machine_without_libfuse_2_gets_libfuse_3() -> None:
    assert load_binding("auto") is load_binding("3")
    with pytest.raises(ConfigurationError, match=r"^libfuse 2 is not installed: apt install fuse3 libfuse2$"):
        load_binding("2")


@pytest.mark.usefixtures("without_libfuse2", "without_libfuse3")
def test_a_machine_with_neither_is_told_of_both() -> None:
    with pytest.raises(ConfigurationError, match=r"neither libfuse 3 .* nor libfuse 2"):
        load_binding("auto")


def test_libfuse_3_needs_mfusepy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mfusepy", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "swiftfs.fuse.libfuse3", raising=False)
    with pytest.raises(ConfigurationError, match="Python package mfusepy"):
        load_binding("3")
    assert load_binding("auto").libfuse.version[0] == 2


@pytest.mark.parametrize(
    ("number", "is_known"), [(31, False), (32, True), (314, True), (318, True), (319, False)]
)
def test_unknown_structs_are_refused(monkeypatch: pytest.MonkeyPatch, number: int, is_known: bool) -> None:
    loaded = SimpleNamespace(fuse_version=lambda: number)
    monkeypatch.setattr("swiftfs.fuse.library.ctypes.CDLL", lambda _: loaded)
    if is_known:
        assert library.libfuse3_path() == "libfuse3.so.4"
        return
    major, minor = version_number(number)
    with pytest.raises(ConfigurationError, match=rf"libfuse {major}\.{minor} .* is not known") as caught:
        library.libfuse3_path()
    assert "fuse=2" in str(caught.value)
