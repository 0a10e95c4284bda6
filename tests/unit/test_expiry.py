"""When Swift deletes a file: the xattr `swift.delete_at`, and the rules of the option `expire`."""

import errno
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from support.harness import ME, harness
from support.memory_store import MemoryStore
from support.noise import noise
from support.stored_objects import foreign, refuse
from swiftfs.config.options import parse_rules
from swiftfs.config.sources import build_options, from_file, from_words
from swiftfs.errors import AccessDenied, ConfigurationError
from swiftfs.filecache.block_map import FileRecord
from swiftfs.filecache.block_set import Blocks
from swiftfs.journal.merging import coalesce
from swiftfs.journal.operations import PutFile, SetAttributes, decode, encode
from swiftfs.objects import History, ObjectName
from swiftfs.posix.filesystem import FileSystem
from swiftfs.posix.write_back import moment_by_rules, parse_moment, show_moment
from swiftfs.store.protocol import Headers, ObjectMeta

pytestmark = pytest.mark.store(MemoryStore, "box", "box_segments")

DAY = 86_400
NAME = "swift.delete_at"
MIB = 1024**2


@contextmanager
def fails(number: int) -> Iterator[None]:
    """Expect an `OSError` of this errno."""
    with pytest.raises(OSError, match=re.escape(os.strerror(number))) as caught:
        yield
    assert caught.value.errno == number


def write(filesystem: FileSystem, path: str, data: bytes, offset: int = 0, flags: int = 0) -> None:
    """Write and close a file, which is made if it does not exist."""
    try:
        handle = filesystem.open(path, os.O_RDWR | flags)
    except FileNotFoundError:
        handle = filesystem.create(path, 0o644, os.O_RDWR, ME)
    filesystem.write(handle, offset, len(data), lambda fd, at: os.pwrite(fd, data, at))
    filesystem.flush(handle)
    filesystem.release(handle)


def delete_at(store: MemoryStore, key: str, container: str = "box") -> str:
    return store.head(ObjectName(container, key)).preserved_headers.get("X-Delete-At", "")


def of_segments(store: MemoryStore) -> set[str]:
    keys = [row.key for row in store.list_page("box_segments").rows]
    assert keys
    return {delete_at(store, key, "box_segments") for key in keys}


def in_days(text: str) -> int:
    """Return in how many days an X-Delete-At is."""
    return round((int(text) - time.time()) / DAY)


@pytest.mark.parametrize(
    ("form", "days"),
    [
        ("+30d", 30),
        ("+48h", 2),
        ("+2w", 14),
        ("%s", 5),
        ("%Y-%m-%dT%H:%M:%SZ", 5),
        ("%Y-%m-%d %H:%M:%S", 5),
        ("%Y-%m-%dT%H:%M:%S+00:00", 5),
    ],
)
def test_a_time_may_be_written_in_several_ways(form: str, days: int) -> None:
    zone = time.gmtime if form.endswith(("Z", "+00:00")) else time.localtime
    text = time.strftime(form, zone(time.time() + days * DAY))
    assert abs(int(parse_moment(text.encode(), "/file")) - time.time() - days * DAY) < 60


@pytest.mark.parametrize(
    "text", ["", "soon", "+0s", "-1d", "+5", "1", "2001-01-01", "99999999999", "\xff", "+999999w", "-5"]
)
def test_a_time_that_has_passed_or_is_none_is_einval(text: str) -> None:
    with fails(errno.EINVAL):
        parse_moment(text.encode("latin-1"), "/file")


def test_a_time_is_shown_in_utc() -> None:
    assert show_moment("2000000000") == b"2033-05-18T03:33:20Z"
    assert show_moment("soon") == b"soon"


def test_the_rule_of_the_longest_folder_counts() -> None:
    rules = parse_rules("/=1w; logs/=90d;logs/debug=2d")
    found = [moment_by_rules(path, rules) for path in ("/a", "/logs/a", "/logs/debug/a/b", "/logs-old/a")]
    assert list(map(in_days, found)) == [7, 90, 2, 7]
    assert moment_by_rules("/logs", parse_rules("logs/=1d")) == ""
    assert moment_by_rules("/logs/a", ()) == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[expire]\n'logs/' = 90", "[expire] 'logs/' = 90 ({file}, line 2): expected an age such as"),
        (
            "ttl = 3\n[expire]\n'a' = '1d'\n'b/' = 'x'",
            "[expire] 'b/' = 'x' ({file}, line 4): expected an age",
        ),
        ("[expire]\n'a;b' = '1d'", "[expire] 'a;b' = '1d' ({file}, line 2): expected a folder without ';'"),
        ("[expire]\n'' = '1d'", "[expire] '' = '1d' ({file}, line 2): expected FOLDER=AGE"),
        ("[expire]\n' ' = '1d'", "[expire] ' ' = '1d' ({file}, line 2): expected FOLDER=AGE"),
        ("[expire]\n'a//b' = '1d'", "[expire] 'a//b' = '1d' ({file}, line 2): expected FOLDER=AGE"),
        ("expire = '=1d'", "option expire==1d ({file}, line 1): expected FOLDER=AGE"),
        ("[expire]\n'../a' = '1d'", "[expire] '../a' = '1d' ({file}, line 2): expected FOLDER=AGE"),
        ("[expire]\n'a' = '0d'", "[expire] 'a' = '0d' ({file}, line 2): expected one age for each folder"),
        ("[expire]\n'a' = '1d'\n'a/' = '2d'", "option expire=a=1d;a/=2d ({file}, line 1): expected one age"),
        ("expire = 'a'", "option expire=a ({file}, line 1): expected FOLDER=AGE"),
    ],
)
def test_a_wrong_rule_is_one_line(tmp_path: Path, text: str, expected: str) -> None:
    (file := tmp_path / "config.toml").write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        build_options([from_file(file)])
    assert str(caught.value).startswith(expected.format(file=file))


def test_rules_come_from_a_table_or_an_option(tmp_path: Path) -> None:
    (file := tmp_path / "config.toml").write_text('[expire]\n"logs/" = "90d"\n"/" = "52w"\n')
    rules = (("", 52 * 7 * DAY), ("logs", 90 * DAY))
    assert build_options([from_file(file)]).expire == rules
    assert build_options([from_words(["expire=logs/=90d;/=52w"])]).expire == rules
    assert build_options([from_file(file), from_words(["expire="])]).expire == ()


def test_new_files_below_a_folder_expire(store: MemoryStore, tmp_path: Path) -> None:
    with harness(store, tmp_path, "expire=logs/=90d") as filesystem:
        filesystem.mkdir("/logs", 0o755, ME)
        write(filesystem, "/logs/a", b"text")
        write(filesystem, "/other", b"text")
        filesystem.symlink("a", "/logs/link", ME)
        assert in_days(delete_at(store, "logs/a")) == 90
        assert filesystem.getxattr("/logs/a", NAME).endswith(b"Z")
        filesystem.chmod("/logs/a", 0o600)
        assert in_days(delete_at(store, "logs/a")) == 90
        # A rename changes nothing.
        filesystem.rename("/logs/a", "/b")
        filesystem.rename("/other", "/logs/other")
    assert in_days(delete_at(store, "b")) == 90
    assert [delete_at(store, key) for key in ("logs", "logs/link", "logs/other")] == ["", "", ""]


def test_a_time_that_a_file_has_stays(store: MemoryStore, tmp_path: Path) -> None:
    moment = str(int(time.time()) + 5 * DAY)
    kept = {"X-Delete-At": moment, "Content-Language": "ko"}
    store.put(ObjectName("box", "logs/theirs"), b"text", Headers("text/plain", {"colour": "red"}, kept))
    foreign(store, "logs/without", b"text")
    with harness(store, tmp_path, "expire=logs/=90d") as filesystem:
        write(filesystem, "/logs/ours", b"text")
        filesystem.setxattr("/logs/ours", NAME, b"+5d", 0)
        for name in ("theirs", "without", "ours"):
            write(filesystem, f"/logs/{name}", b"more", 4)
    with harness(store, tmp_path, "expire=logs/=90d") as filesystem:
        write(filesystem, "/logs/ours", b"x", 0, os.O_TRUNC)
    days = [in_days(delete_at(store, f"logs/{name}")) for name in ("theirs", "without", "ours")]
    assert days == [5, 90, 5]
    assert store.head(ObjectName("box", "logs/theirs")).metadata["colour"] == "red"


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("size", [10, 3 * MIB])
def test_a_file_that_waits_in_the_journal_gets_its_time(
    store: MemoryStore, tmp_path: Path, is_open: bool, size: int
) -> None:
    with harness(store, tmp_path, "settle=1000,segment_size=1M", close_error=None) as filesystem:
        handle = filesystem.create("/file", 0o644, os.O_RDWR, ME)
        filesystem.write(handle, 0, size, lambda fd, at: os.pwrite(fd, noise(size), at))
        filesystem.flush(handle)
        if not is_open:
            filesystem.release(handle)
        filesystem.setxattr("/file", NAME, b"+30d", 0)
        assert filesystem.getxattr("/file", NAME)
        assert NAME not in filesystem.listxattr("/file")
        assert not [method for method, subject in store.requests if subject == "box/file"]
        if is_open:
            filesystem.release(handle)
    assert in_days(delete_at(store, "file")) == 30
    if size > MIB:
        assert [in_days(text) for text in of_segments(store)] == [30]


@pytest.mark.parametrize("how", ["closed", "open", "dirty"])
def test_the_segments_get_and_lose_the_time_with_the_file(
    store: MemoryStore, tmp_path: Path, how: str
) -> None:
    with harness(store, tmp_path, "segment_size=1M") as filesystem:
        write(filesystem, "/film", noise(3 * MIB))
        handle = filesystem.open("/film", os.O_RDWR) if how != "closed" else None

        def touch() -> None:
            if how == "dirty" and handle is not None:
                filesystem.write(handle, 5, 1, lambda fd, at: os.pwrite(fd, b"x", at))

        for value, days in ((b"+30d", 30), (b"+90d", 90), (b"+2d", 2)):
            touch()
            filesystem.setxattr("/film", NAME, value, 0)
            if handle is not None:
                filesystem.flush(handle)
            assert in_days(delete_at(store, "film")) == days
            assert [in_days(text) for text in of_segments(store)] == [days]
        touch()
        filesystem.removexattr("/film", NAME)
        if handle is not None:
            filesystem.flush(handle)
            filesystem.release(handle)
        assert delete_at(store, "film") == ""
        assert of_segments(store) == {""}
        with fails(errno.ENODATA):
            filesystem.removexattr("/film", NAME)
        with fails(errno.ENODATA):
            filesystem.getxattr("/film", NAME)


def test_a_file_keeps_its_time_if_its_segments_cannot_be_kept_longer(
    store: MemoryStore, tmp_path: Path
) -> None:
    with harness(store, tmp_path, "segment_size=1M") as filesystem:
        write(filesystem, "/film", noise(3 * MIB))
        filesystem.setxattr("/film", NAME, b"+5d", 0)

        refuse(store, "post", AccessDenied, about="^box_segments/")
        with pytest.raises(AccessDenied):
            filesystem.removexattr("/film", NAME)
        store.hook = None
        assert in_days(delete_at(store, "film")) == 5
        assert filesystem.getxattr("/film", NAME)


def test_a_file_gets_its_time_though_its_segments_do_not(
    store: MemoryStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with harness(store, tmp_path, "segment_size=1M") as filesystem:
        write(filesystem, "/film", noise(3 * MIB))
        refuse(store, "post", AccessDenied, about="^box_segments/")
        filesystem.setxattr("/film", NAME, b"+5d", 0)
        store.hook = None
        assert in_days(delete_at(store, "film")) == 5
    assert "box/film: 3 segments stay when Swift deletes it at its X-Delete-At" in caplog.text


def test_a_change_of_attributes_costs_no_request_for_segments(store: MemoryStore, tmp_path: Path) -> None:
    with harness(store, tmp_path, "segment_size=1M") as filesystem:
        write(filesystem, "/film", noise(3 * MIB))
        filesystem.setxattr("/film", NAME, b"+5d", 0)
        store.requests.clear()
        filesystem.chmod("/film", 0o600)
        assert not [subject for _, subject in store.requests if subject.startswith("box_segments")]


def test_a_time_that_passed_before_the_upload_is_dropped(
    store: MemoryStore, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with harness(store, tmp_path, "settle=1000") as filesystem:
        write(filesystem, "/file", b"text")
        filesystem.setxattr("/file", NAME, b"+1h", 0)
        now = time.time()
        monkeypatch.setattr("swiftfs.journal.file_upload.unix_time", lambda: now + DAY)
    assert delete_at(store, "file") == ""
    assert "passed before it could be stored" in caplog.text


def test_folders_and_flags(store: MemoryStore, tmp_path: Path) -> None:
    with harness(store, tmp_path) as filesystem:
        filesystem.mkdir("/d", 0o755, ME)
        write(filesystem, "/file", b"text")
        for path, flags, number in (
            ("/d", 0, errno.EOPNOTSUPP),
            ("/file", 2, errno.ENODATA),
            ("/missing", 0, errno.ENOENT),
        ):
            with fails(number):
                filesystem.setxattr(path, NAME, b"+1d", flags)
        filesystem.setxattr("/file", NAME, b"+1d", 1)
        with pytest.raises(FileExistsError):
            filesystem.setxattr("/file", NAME, b"+2d", 1)
        filesystem.setxattr("/file", NAME, b"+2d", 2)
        assert in_days(delete_at(store, "file")) == 2


FILE = FileRecord("0123", 4, None, Blocks(), None)
META = ObjectMeta("text/plain")
PUT, CHANGE = PutFile(ObjectName("box", "a"), FILE, META), SetAttributes(ObjectName("box", "a"), META, True)


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        (replace(PUT, expiry_changed=True), PUT),
        (replace(PUT, expiry_changed=True), CHANGE),
        (PUT, replace(CHANGE, expiry_changed=True)),
        (replace(CHANGE, expiry_changed=True), CHANGE),
        (replace(CHANGE, expiry_changed=True), PUT),
    ],
)
def test_merged_changes_remember_that_segments_must_follow(
    earlier: PutFile | SetAttributes, later: PutFile | SetAttributes
) -> None:
    merged = coalesce(earlier, later)
    assert merged is not None
    (one,) = merged
    assert isinstance(one, PutFile | SetAttributes)
    assert one.expiry_changed
    assert encode(decode(encode(one))) == encode(one)


def test_nothing_expires_in_a_container_with_versioning(store: MemoryStore, tmp_path: Path) -> None:
    store.set_history("box", History.KEPT)
    with harness(store, tmp_path, "expire=logs/=90d,segment_size=1M") as filesystem:
        filesystem.mkdir("/logs", 0o755, ME)
        for path in ("/logs/small", "/logs/large"):
            write(filesystem, path, os.urandom(2 * MIB if "large" in path else 5))
            with fails(errno.EOPNOTSUPP):
                filesystem.setxattr(path, NAME, b"+1d", 0)
            with fails(errno.ENODATA):
                filesystem.getxattr(path, NAME)
            with fails(errno.ENODATA):
                filesystem.removexattr(path, NAME)
    assert of_segments(store) == {""}


def test_a_file_may_expire_when_versioning_is_off_again(store: MemoryStore, tmp_path: Path) -> None:
    store.set_history("box", History.KEPT, enabled=False)
    with harness(store, tmp_path) as filesystem:
        write(filesystem, "/file", b"data")
        filesystem.setxattr("/file", NAME, b"+1d", 0)
    assert in_days(delete_at(store, "file")) == 1
