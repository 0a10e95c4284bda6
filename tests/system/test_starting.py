"""The first minutes with a mount: what is made, what is said, and what a failure leaves."""

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from swiftclient import Connection

from support.commands import one_line, swiftfs
from support.deadlines import within
from support.mounts import Mount
from support.other_users import as_root, refused_to_nobody
from swiftfs.control.mount_table import mounted_on
from swiftfs.demo.server import Fault, SwiftServer
from swiftfs.service.mountpoint import check_mountpoint

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A folder with an empty folder `mp`; what is mounted in it is unmounted at the end."""
    (tmp_path / "home" / "mp").mkdir(parents=True)
    yield tmp_path / "home"
    for mountpoint in list((tmp_path / "home").rglob("mp")):
        while mounted_on(mountpoint):
            subprocess.run(["fusermount", "-uz", str(mountpoint)], check=True)


@pytest.fixture
def typed(swift: SwiftServer, connection: Connection, home: Path) -> Command:
    """Return a function that does what a user types in that folder, with credentials in the environment."""

    def typed(line: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {**swift.environment(), "XDG_CACHE_HOME": str(home / "cache"), **variables}
        return swiftfs(*line.split()[1:], environment=environment, folder=home)

    return typed


def told(result: subprocess.CompletedProcess[str]) -> str:
    """Return what a command said that succeeded."""
    assert (result.returncode, result.stdout) == (0, ""), result
    return result.stderr


def test_create_makes_container_and_mount_point(
    typed: Command, home: Path, connection: Connection, container: str
) -> None:
    name = f"{container}-new"
    assert told(typed(f"swiftfs mount --create {name} a/b/mp")) == ""
    (home / "a/b/mp/file").write_text("text")
    assert told(typed("swiftfs umount a/b/mp")) == ""
    assert connection.get_object(name, "file")[1] == b"text"
    # Both are there now.
    assert told(typed(f"swiftfs mount --create {name}/prefix a/b/mp")) == ""
    assert told(typed("swiftfs umount a/b/mp")) == ""


def test_folders_whose_names_are_not_utf8(typed: Command, home: Path, container: str) -> None:
    """A mount point and a cache folder may have any name: no object is named after them."""
    (home / "\udcff" / "mp").mkdir(parents=True)
    assert told(typed(f"swiftfs mount {container} \udcff/mp --cache-dir \udcfe")) == ""
    (home / "\udcff/mp/file").write_text("text")
    assert told(typed("swiftfs flush \udcff/mp")) == ""
    assert told(typed("swiftfs umount \udcff/mp")) == ""


@pytest.mark.parametrize(
    ("source", "requests"),
    [
        ("{}", ["GET /auth", "HEAD {}", "DELETE {}/.swiftfs-"]),
        ("{} --ro", ["GET /auth", "HEAD {}"]),
        ("/", ["GET /auth", "HEAD "]),
        ("{}/marked", ["GET /auth", "HEAD {}", "DELETE {}/marked/.swiftfs-", "HEAD {}/marked"]),
    ],
    ids=["container", "read-only", "account", "prefix"],
)
def test_a_start_sends_few_requests(
    typed: Command,
    swift: SwiftServer,
    connection: Connection,
    container: str,
    source: str,
    requests: list[str],
) -> None:
    """The login, whether it may write, and whether the source is there: a mount that is ready knows these."""
    connection.put_object(container, "marked", b"", content_type="application/directory")
    swift.reset_requests()
    assert told(typed(f"swiftfs mount {source.format(container)} mp")) == ""
    account = swift.storage_url.partition(str(swift.port))[2] + "/"
    sent = [f"{one.method} {one.path.replace(account, '')}" for one in swift.requests()]
    assert len(sent) == len(requests), sent
    assert all(one.startswith(begin.format(container)) for one, begin in zip(sent, requests, strict=True)), (
        sent
    )
    assert told(typed("swiftfs umount mp")) == ""


def test_create_leaves_no_folder_when_it_fails(typed: Command, home: Path) -> None:
    assert "wrong user or key" in one_line(typed("swiftfs mount --create box a/b/mp", ST_KEY="wrong"))
    assert sorted(path.name for path in home.iterdir()) == ["mp"]


def test_mkdir_in_an_account_makes_the_container_that_a_mount_misses(
    typed: Command, home: Path, container: str
) -> None:
    name = f"{container}-made"
    line = one_line(typed(f"swiftfs mount {name} mp"))
    assert (
        f"'swiftfs mount --create {name} {home / 'mp'}' makes it, and so does mkdir in a mount of /" in line
    )
    assert told(typed("swiftfs mount / mp")) == ""
    (home / "mp" / name).mkdir()
    assert told(typed("swiftfs umount mp")) == ""
    assert told(typed(f"swiftfs mount {name} mp")) == ""
    assert told(typed("swiftfs umount mp")) == ""


def test_a_prefix_without_objects_is_told(typed: Command, container: str, connection: Connection) -> None:
    connection.put_object(container, "2024/file", b"")
    connection.put_object(container, "marked", b"", content_type="application/directory")
    empty = f"swiftfs: {container}/2O24 is mounted, but empty: its name may be a typo\n"
    for prefix, expected in (("2O24", empty), ("2024", ""), ("marked", "")):
        assert told(typed(f"swiftfs mount {container}/{prefix} mp")) == expected
        assert told(typed("swiftfs umount mp")) == ""


def leave_a_file(typed: Command, home: Path, swift: SwiftServer, source: str) -> None:
    """Mount and unmount a source whose server takes no object, so that a file waits for the next mount."""
    assert told(typed(f"swiftfs mount --create {source} mp --drain 0")) == ""
    swift.inject(Fault(method="PUT", path="/file", status=503))
    (home / "mp" / "file").write_text("text")
    assert "the next mount continues" in one_line(typed("swiftfs umount mp"))
    swift.clear_faults()


def test_a_prefix_whose_files_wait_is_not_told(
    typed: Command, home: Path, swift: SwiftServer, container: str
) -> None:
    leave_a_file(typed, home, swift, f"{container}/new")
    assert told(typed(f"swiftfs mount {container}/new mp")) == ""
    assert told(typed("swiftfs umount mp")) == ""


@pytest.mark.parametrize("write", [True, False], ids=["with a file", "empty"])
def test_a_mount_point_in_use_is_recognized(
    typed: Command, home: Path, container: str, swift: SwiftServer, write: bool
) -> None:
    """Root could mount over it. It is recognized before anything is sent."""
    assert told(typed(f"swiftfs mount {container} mp")) == ""
    if write:
        (home / "mp" / "file").write_text("text")
        assert told(typed("swiftfs flush mp")) == ""
    swift.reset_requests()
    (home / "link").symlink_to("mp")
    for source, folder in ((container, "mp"), ("other", "mp"), ("/", "mp"), ("other", "link")):
        line = one_line(typed(f"swiftfs mount {source} {folder}"))
        assert line == f"swiftfs: mount point {home / folder}: {container} is mounted there already\n"
    assert swift.requests() == []
    assert told(typed("swiftfs umount mp")) == ""


@as_root
@pytest.mark.reachable
def test_a_mount_of_another_user_is_recognized(mounted: Mount) -> None:
    """The kernel lets nobody else look into it, so its source is read from the table of mounts."""
    told = refused_to_nobody(lambda: check_mountpoint(mounted.path))
    assert told == f"mount point {mounted.path}: {mounted.source} is mounted there already"


@pytest.mark.parametrize(
    ("typed_by", "advice"),
    [("a user", "choose an empty folder"), ("a service", "move away what is in it")],
)
def test_who_cannot_choose_the_mount_point_is_told_to_empty_it(
    typed: Command, home: Path, typed_by: str, advice: str
) -> None:
    (home / "mp" / "file").touch()
    service = {"NOTIFY_SOCKET": str(home / "notify")} if typed_by == "a service" else {}
    line = one_line(typed("swiftfs mount box mp", **service))
    assert line == f"swiftfs: mount point {home / 'mp'} is not empty: {advice}\n"


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault(path="/v1/", status=503), "the server cannot serve {} now, 503 Service Unavailable"),
        (Fault(path="/auth/", status=503), "the authentication server cannot serve now, "),
        (Fault(path="/v1/", status=403), " may not read {}: check the user's rights and the project (403 "),
    ],
    ids=["503", "503 at the login", "403"],
)
def test_a_server_that_refuses_is_told_in_one_line_and_leaves_nothing(
    typed: Command, home: Path, swift: SwiftServer, container: str, fault: Fault, expected: str
) -> None:
    swift.inject(fault)
    began = time.monotonic()
    line = one_line(typed(f"swiftfs mount {container} mp"))
    assert time.monotonic() - began < within(15)
    assert expected.format(container) in line
    assert "container_usage" not in line
    assert sorted(path.name for path in home.iterdir()) == ["mp"]


def test_who_may_only_read_is_told(typed: Command, home: Path, swift: SwiftServer, container: str) -> None:
    swift.inject(Fault(method="DELETE", path="/v1/", status=403))
    assert told(typed(f"swiftfs mount {container} mp")).startswith(
        f"swiftfs: {container} is mounted read-only:"
    )
    with contextlib.suppress(OSError):
        (home / "mp" / "file").touch()
        raise AssertionError("it is not read-only")
    assert told(typed("swiftfs umount mp")) == ""


def test_a_failed_mount_leaves_no_cache_folder(typed: Command, home: Path, container: str) -> None:
    one_line(typed("swiftfs mount no-such-container mp"))
    one_line(typed("swiftfs mount no-such-container mp --cache-dir a/b/cache"))
    assert sorted(path.name for path in home.iterdir()) == ["mp"]


def test_a_failed_mount_leaves_the_cache_folder_of_an_earlier_one(
    typed: Command, home: Path, swift: SwiftServer, container: str
) -> None:
    leave_a_file(typed, home, swift, container)
    swift.inject(Fault(path="/v1/", status=403))
    one_line(typed(f"swiftfs mount {container} mp"))
    swift.clear_faults()
    assert told(typed(f"swiftfs mount {container} mp")) == ""
    assert (home / "mp" / "file").read_text() == "text"
    assert told(typed("swiftfs umount mp")) == ""


def test_a_source_may_have_the_prefix_that_fstab_needs(typed: Command, container: str) -> None:
    assert told(typed(f"swiftfs mount swift:{container} mp")) == ""
    assert told(typed("swiftfs umount mp")) == ""
    assert typed(f"swiftfs gc swift:{container}").returncode == 0
    assert typed(f"swiftfs probe swift:{container} --size 1M").returncode == 0


def test_the_log_begins_with_what_is_mounted(typed: Command, home: Path, container: str) -> None:
    assert told(typed(f"swiftfs mount {container} mp --cache-dir cache")) == ""
    first = (home / "mp/.swiftfs/log").read_text().splitlines()[0]
    assert f"{container} is mounted on {home / 'mp'} by swiftfs " in first
    assert first.endswith(f"; cache folder {home / 'cache'}")
    assert told(typed("swiftfs umount mp")) == ""
