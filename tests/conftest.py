"""Fixtures of all tests: one real Swift per session, a new container per test, checks for leaks and locks."""

import itertools
import shutil
import signal
import subprocess
import sys
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from pathlib import Path

import hypothesis
import pytest
from swiftclient import Connection

from support import comparisons, tiers
from support.leaks import Belongings
from support.mounts import Mount
from support.worker_memory import WorkerMemory
from swiftfs import concurrency
from swiftfs.demo.server import ServerSettings, SwiftServer
from swiftfs.journal import recovery, segment_records, tasks

concurrency.check()

# By default an example may take 0.2 s, whatever the load; the test has a time limit of its own.
hypothesis.settings.register_profile("any load", deadline=None)
hypothesis.settings.register_profile("fast", deadline=None, max_examples=20)
hypothesis.settings.load_profile("any load")

_numbers = itertools.count(1)


@pytest.fixture(scope="session", autouse=True)
def user_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's cache folder, which is empty before each test: `swiftfs gc` reads all journals in it."""
    folder = tmp_path_factory.getbasetemp() / "user-cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


# One fixture, for each costs every test a fifth of a millisecond.
@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a thread, a descriptor or a mount behind after its fixtures have ended.

    So does one whose threads took locks out of order, or held a lock while they waited.
    """
    # No parameter: with one, the session's fixture would keep something of each test until the end.
    user_cache: Path = request.getfixturevalue("user_cache")
    before = Belongings(user_cache.parent)
    concurrency.take_violations()
    yield
    shutil.rmtree(user_cache, ignore_errors=True)
    left = [] if request.node.get_closest_marker("leaves_open") else before.left()
    if left:
        before.detach_mounts()
    assert left == []
    assert concurrency.take_violations() == []


@pytest.fixture(autouse=True)
def short_pauses(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let replaced segments be deleted at once, so that a test can look for them.

    The journal of a unit test tries failed changes again soon: its store needs no rest.
    """
    # Not `monkeypatch`, which a test may undo.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment_records, "REST_SECONDS", 0.0)
        if request.node.get_closest_marker("unit"):
            patch.setattr(tasks, "FIRST_PAUSE", 0.05)
            patch.setattr(tasks, "LONGEST_PAUSE", 0.2)
        yield


@pytest.fixture
def no_retries(short_pauses: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the journal try failed changes, and those of an earlier mount, only when it is asked to."""
    monkeypatch.setattr(recovery, "RECOVERY_SECONDS", 1000.0)
    monkeypatch.setattr(tasks, "FIRST_PAUSE", 1000.0)
    monkeypatch.setattr(tasks, "LONGEST_PAUSE", 1000.0)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(comparisons)
    config.pluginmanager.register(WorkerMemory())
    if not hasattr(config, "workerinput"):
        _make_unicode_tables()
    _let_children_get_signals()


def pytest_report_header() -> str:
    return f"of the cases of a test that are not fast a third: TEST_SEED={tiers.SEED}" if tiers.SEED else ""


def _make_unicode_tables() -> None:
    """Let a process of its own make hypothesis's tables of characters, once for a tree.

    It takes 200 MiB and a second, in each worker that finds none.
    """
    tables = Path(".hypothesis/unicode_data", unicodedata.unidata_version)
    if not any(tables.glob("codec-*")):
        code = "from hypothesis.strategies import text; text().validate()"
        subprocess.run([sys.executable, "-c", code], check=True)


def _let_children_get_signals() -> None:
    """Give children the default action of signals that pytest ignores, for example under nohup."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda _number, _frame: None)  # handlers do not survive exec


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tiers.arrange(items)


@pytest.fixture(scope="session")
def swift_server() -> Iterator[SwiftServer]:
    """A real Swift on loopback; tests use `swift`, which clears its faults and records."""
    with SwiftServer() as server:
        yield server


@pytest.fixture(scope="session")
def versioned_server() -> Iterator[SwiftServer]:
    """A Swift whose containers may keep older versions."""
    with SwiftServer(settings=ServerSettings(object_versioning=True)) as server:
        yield server


@pytest.fixture
def swift(swift_server: SwiftServer) -> Iterator[SwiftServer]:
    """The Swift of the session, without faults and records of other tests."""
    swift_server.clear_faults()
    swift_server.reset_requests()
    yield swift_server
    swift_server.clear_faults()


@pytest.fixture
def server() -> Iterator[SwiftServer]:
    """A Swift for one test, which may kill it, with the empty container `box`."""
    with SwiftServer() as running:
        client = Connection(running.auth_url, running.user, running.key, retries=0)
        client.put_container("box")
        yield running
        client.close()


@pytest.fixture
def container() -> str:
    """Return a container name that no other test uses."""
    return f"box{next(_numbers)}"


@cache
def _login(server: SwiftServer) -> tuple[str, str]:
    """Return the URL and a token of an account: a login for each test would be one more request of most."""
    with closing(Connection(server.auth_url, server.user, server.key, retries=0)) as client:
        url, token = client.get_auth()
        return url, token


@pytest.fixture
def connection(swift: SwiftServer, container: str) -> Iterator[Connection]:
    """Another client of the same account; it has created `container`."""
    url, token = _login(swift)
    client = Connection(swift.auth_url, swift.user, swift.key, preauthurl=url, preauthtoken=token, retries=0)
    client.put_container(container)
    swift.reset_requests()
    yield client
    client.close()


@pytest.fixture
def mount_folder(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """The folder of a mount point and its cache; with `@pytest.mark.reachable` other users get there.

    That is not below pytest's own folder: each pytest closes it to other users when it starts.
    """
    if request.node.get_closest_marker("reachable") is None:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="swiftfs-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def mounted(
    swift: SwiftServer,
    connection: Connection,
    container: str,
    mount_folder: Path,
    request: pytest.FixtureRequest,
) -> Iterator[Mount]:
    """A mount of the empty `container`; `@pytest.mark.mount_options("ttl=0")` sets its `-o`."""
    marker = request.node.get_closest_marker("mount_options")
    with Mount(swift, container, mount_folder, marker.args[0] if marker else "") as mount:
        yield mount
