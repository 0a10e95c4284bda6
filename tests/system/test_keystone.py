"""A real Keystone with a real Swift: login, catalog, tokens that expire, and mounts."""

import errno
import importlib.util
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from keystoneauth1.identity import v3

from support.keystone_server import PASSWORD, PROJECT, TOKEN_LIFE, USER, KeystoneServer
from support.mounts import Mount, swift_cli
from support.pages import ROOT, blocks, put_editor, reader_s_environment, run_blocks
from swiftfs.config.credentials import NAVER_KEYS
from swiftfs.demo.server import ServerSettings, SwiftServer
from swiftfs.errors import AccessDenied, ConfigurationError
from swiftfs.store import error_map
from swiftfs.store.connect import ConnectedAccount, connect

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("keystone") is None, reason="needs Keystone: pip install 'swiftfs[keystone]'"
)

THREADS = 8
RENEWED_EARLY = v3.Password.MIN_TOKEN_LIFE_SECONDS
"""Seconds before its end at which a token is renewed."""
PATIENCE = 30.0


class KeystoneSwift(SwiftServer):
    """A Swift whose users are Keystone's, and which is in Keystone's catalog."""

    def __init__(self, keystone: KeystoneServer) -> None:
        super().__init__(settings=ServerSettings(keystone=keystone.for_swift()))
        self.keystone = keystone

    def start(self) -> None:
        """Start it, and enter it into the catalog."""
        super().start()
        self.keystone.add_swift(self)

    def environment(self) -> dict[str, str]:
        """Return Keystone's variables."""
        return self.keystone.environment()


@pytest.fixture(scope="module")
def keystone() -> Iterator[KeystoneServer]:
    with KeystoneServer() as server:
        yield server


@pytest.fixture(scope="module")
def cloud(keystone: KeystoneServer) -> Iterator[KeystoneSwift]:
    server = KeystoneSwift(keystone)
    with server:
        yield server


@pytest.fixture
def swift(cloud: KeystoneSwift) -> Iterator[KeystoneSwift]:
    cloud.reset_requests()
    yield cloud
    cloud.keystone.set_token_life(TOKEN_LIFE)


def _ids(keystone: KeystoneServer) -> dict[str, str]:
    return {
        "OS_AUTH_URL": keystone.url.removesuffix("/v3"),
        "OS_USERNAME": USER,
        "OS_PASSWORD": PASSWORD,
        "OS_PROJECT_ID": keystone.project_id,
        "OS_USER_DOMAIN_ID": "default",
    }


def _refused(swift: SwiftServer) -> int:
    return sum(request.status == 401 for request in swift.requests())


def test_names_and_ids_log_in_to_the_same_account(swift: KeystoneSwift) -> None:
    project = {"OS_PROJECT_NAME": PROJECT, "OS_PROJECT_DOMAIN_ID": "default", "OS_PROJECT_ID": ""}
    by_id = _ids(swift.keystone)
    for environment in (swift.environment(), by_id, {**by_id, **project}):
        swift.reset_requests()
        connected = connect(environment)
        try:
            assert connected.store.account_usage().objects == 0
        finally:
            connected.close()
        account = f"/v1/AUTH_{swift.keystone.project_id}"
        assert [request.path for request in swift.requests()] == [account]


@pytest.mark.parametrize(
    ("wrong", "cause"),
    [
        ({"OS_PASSWORD": "not-the-password"}, "wrong user or key, or another domain of the user"),
        ({"OS_USERNAME": "nobody"}, "wrong user or key, or another domain of the user"),
        (
            {"OS_PROJECT_NAME": "elsewhere"},
            f"user and key are right, but not the project 'elsewhere': the user may use {PROJECT} (",
        ),
        (
            {"OS_USER_DOMAIN_NAME": "", "OS_USER_DOMAIN_ID": "Default"},
            "'Default' is not the id of the user's domain: set OS_USER_DOMAIN_NAME to it",
        ),
        ({"OS_USER_DOMAIN_NAME": "Elsewhere"}, "wrong user or key, or another domain of the user"),
    ],
    ids=["password", "user", "project", "id of the domain", "domain"],
)
def test_a_refused_login_is_reported_with_the_likely_cause(
    swift: KeystoneSwift, wrong: dict[str, str], cause: str
) -> None:
    environment = {**swift.environment(), **wrong}
    with pytest.raises(AccessDenied) as caught:
        connect(environment)
    text = str(caught.value)
    assert swift.keystone.url in text
    assert environment["OS_USERNAME"] in text
    assert environment["OS_PASSWORD"] not in text
    assert "\n" not in text
    assert cause in text
    assert "clock" not in text


def test_a_user_without_a_project_is_told_so(swift: KeystoneSwift) -> None:
    swift.keystone.add_user("newcomer", "newcomer", in_project=False)
    with pytest.raises(AccessDenied, match="the user has no role in any project"):
        connect({**swift.environment(), "OS_USERNAME": "newcomer"})


def test_a_clock_that_is_wrong_is_told(swift: KeystoneSwift, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(error_map, "unix_time", lambda: time.time() - 7200)
    with pytest.raises(AccessDenied, match=r"this machine's clock is (2 h|1 h 59 min) behind the server's"):
        connect({**swift.environment(), "OS_PASSWORD": "not-the-password"})


def test_a_region_without_swift_is_reported(swift: KeystoneSwift) -> None:
    with pytest.raises(ConfigurationError, match="no object-store endpoint in region nowhere"):
        connect({**swift.environment(), "OS_REGION_NAME": "nowhere"})


def test_one_token_serves_every_request_and_thread(swift: KeystoneSwift) -> None:
    before = swift.keystone.logins()
    connected = connect(swift.environment())
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            usages = [pool.submit(connected.store.account_usage) for _ in range(20)]
        assert all(usage.result().objects == 0 for usage in usages)
    finally:
        connected.close()
    assert len(swift.requests()) == 20
    assert swift.keystone.logins() - before == 1


def _work_until_logins(swift: KeystoneSwift, connected: ConnectedAccount, wanted: int) -> None:
    """Send requests from many threads until Keystone has had `wanted` logins."""
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            assert connected.store.account_usage().objects == 0

    with ThreadPoolExecutor(THREADS) as pool:
        workers = [pool.submit(work) for _ in range(THREADS)]
        end = time.monotonic() + PATIENCE
        try:
            while swift.keystone.logins() < wanted:
                assert time.monotonic() < end, "no renewal"
                done.wait(0.1)
        finally:
            done.set()
    for worker in workers:
        worker.result()


def _logins_possible(begun: float, life: float) -> float:
    """Return how many logins one thread may have made since `begun`; one per thread would be many more."""
    shortest = life - 1  # Keystone rounds the end of a token's life down to a second
    return 1 + (time.monotonic() - begun) / shortest


def test_tokens_are_renewed_once_before_they_expire(swift: KeystoneSwift) -> None:
    life = 2
    swift.keystone.set_token_life(RENEWED_EARLY + life)
    before = swift.keystone.logins()
    begun = time.monotonic()
    connected = connect(swift.environment())
    try:
        _work_until_logins(swift, connected, before + 4)
    finally:
        connected.close()
    assert swift.keystone.logins() - before <= _logins_possible(begun, life)
    assert _refused(swift) == 0


def test_tokens_that_swift_refuses_are_renewed_once(
    swift: KeystoneSwift, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = 3
    # A client whose clock is slow uses a token until Swift refuses it.
    monkeypatch.setattr(v3.Password, "MIN_TOKEN_LIFE_SECONDS", -3600)
    swift.keystone.set_token_life(life)
    before = swift.keystone.logins()
    begun = time.monotonic()
    connected = connect(swift.environment())
    try:
        _work_until_logins(swift, connected, before + 3)
    finally:
        connected.close()
    logins = swift.keystone.logins() - before
    assert logins <= _logins_possible(begun, life)
    assert logins - 1 <= _refused(swift) <= (logins - 1) * THREADS


def test_a_mount_lives_longer_than_its_tokens(swift: KeystoneSwift, tmp_path: Path) -> None:
    swift_cli(swift, "post", "box")
    swift.keystone.set_token_life(RENEWED_EARLY + 1)
    before = swift.keystone.logins()
    with Mount(swift, "box", tmp_path) as mount:
        end = time.monotonic() + PATIENCE
        count = 0
        while swift.keystone.logins() - before < 3:
            assert time.monotonic() < end, "no renewal"
            (mount.path / f"file{count}").write_text(f"text {count}")
            count += 1
        mount.remount()
        assert len(list(mount.path.iterdir())) == count
        assert (mount.path / f"file{count - 1}").read_text() == f"text {count - 1}"
    assert swift_cli(swift, "download", "box", "file0", "-o", "-") == "text 0"
    assert _refused(swift) == 0


def _containers_of(environment: dict[str, str]) -> tuple[str, ...]:
    connected = connect(environment)
    try:
        return connected.store.list_containers().subdirs
    finally:
        connected.close()


def test_an_application_credential_logs_in(swift: KeystoneSwift) -> None:
    key, secret = swift.keystone.application_credential()
    environment = {
        "OS_AUTH_URL": swift.keystone.url,
        "OS_APPLICATION_CREDENTIAL_ID": key,
        "OS_APPLICATION_CREDENTIAL_SECRET": secret,
    }
    assert _containers_of(environment) == _containers_of(swift.environment())
    with pytest.raises(AccessDenied) as caught:
        connect({**environment, "OS_APPLICATION_CREDENTIAL_SECRET": "wrong-secret"})
    assert "wrong-secret" not in str(caught.value)
    assert key in str(caught.value)


def test_a_token_logs_in(swift: KeystoneSwift) -> None:
    session = swift.keystone.own()
    token = session.get_token() or ""
    session.session.close()
    environment = {
        "OS_AUTH_URL": swift.keystone.url,
        "OS_TOKEN": token,
        "OS_PROJECT_ID": swift.keystone.project_id,
    }
    assert _containers_of(environment) == _containers_of(swift.environment())
    with pytest.raises(AccessDenied) as caught:
        connect({**environment, "OS_TOKEN": "no-such-token"})
    assert "no-such-token" not in str(caught.value)


class _AnotherUser:
    """The same Swift for a mount, with the credentials of another user."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def environment(self) -> Mapping[str, str]:
        return self._environment


def test_a_mount_with_keys_of_naver(swift: KeystoneSwift, tmp_path: Path) -> None:
    swift_cli(swift, "post", "box")
    file = tmp_path / "credentials"
    file.touch(0o600)
    file.write_text(
        f"access_key = {USER}\nsecret_key = {PASSWORD}\nproject_id = {swift.keystone.project_id}\n"
        f"domain_id = default\nauth_url = {swift.keystone.url}\n"
    )
    nobody: Any = _AnotherUser({})
    mount = Mount(nobody, "box", tmp_path, f"credentials={file}")
    mount.forked = False  # a fork's environment is not seen in /proc
    with mount:
        (mount.path / "by-key").write_text("text")
        assert PASSWORD not in Path(f"/proc/{mount.pid}/environ").read_text()
        assert PASSWORD not in Path(f"/proc/{mount.pid}/cmdline").read_text()
    assert swift_cli(swift, "download", "box", "by-key", "-o", "-") == "text"
    assert PASSWORD not in mount.log.read_text()


def test_a_reader_gets_a_read_only_mount(swift: KeystoneSwift, tmp_path: Path) -> None:
    auditor = swift.keystone.add_user("auditor", "auditor")
    swift_cli(swift, "post", "archive", "-r", f"{swift.keystone.project_id}:{auditor}")
    (tmp_path / "file").write_text("text")
    swift_cli(swift, "upload", "archive", "file", cwd=tmp_path)
    reader: Any = _AnotherUser({**swift.environment(), "OS_USERNAME": "auditor"})
    with Mount(reader, "archive", tmp_path) as mount:
        assert (mount.path / "file").read_text() == "text"
        with pytest.raises(OSError, match="Read-only") as caught:
            (mount.path / "file").write_text("changed")
        assert caught.value.errno == errno.EROFS
    assert "archive is mounted read-only: " in mount.log.read_text()


def test_a_long_copy_survives_the_end_of_its_token(swift: KeystoneSwift, tmp_path: Path) -> None:
    swift_cli(swift, "post", "box")
    swift.keystone.set_token_life(RENEWED_EARLY + 1)
    parts = []
    with Mount(swift, "box", tmp_path, "segment_size=1M") as mount:
        before = swift.keystone.logins()
        end = time.monotonic() + PATIENCE
        with (mount.path / "film").open("wb") as file:
            while swift.keystone.logins() - before < 3:
                assert time.monotonic() < end, "no renewal"
                parts.append(os.urandom(1024 * 1024 + 7))
                file.write(parts[-1])
                file.flush()
                threading.Event().wait(0.2)
        mount.remount()
        assert (mount.path / "film").read_bytes() == b"".join(parts)
    assert _refused(swift) == 0


def test_a_revoked_user_is_reported(swift: KeystoneSwift, tmp_path: Path) -> None:
    user = swift.keystone.add_user("temp", "temp")
    swift_cli(swift, "post", "shared", "-r", f"{swift.keystone.project_id}:{user}")
    swift.keystone.set_token_life(RENEWED_EARLY + 1)
    environment = {**swift.environment(), "OS_USERNAME": "temp"}
    temp: Any = _AnotherUser(environment)
    with Mount(temp, "shared", tmp_path, "ttl=0,ro") as mount:
        mount.expected = ["wrong user or key"]
        assert list(mount.path.iterdir()) == []
        swift.keystone.revoke(user)
        end = time.monotonic() + PATIENCE
        number = 0
        while not number:
            assert time.monotonic() < end
            try:
                list(mount.path.iterdir())
                threading.Event().wait(0.2)
            except OSError as error:
                number = error.errno or 0
        assert number == errno.EACCES
    with pytest.raises(AccessDenied, match="wrong user or key"):
        connect(environment)


PAGE = "docs/naver.md"


@pytest.fixture
def reader(swift: KeystoneSwift, tmp_path: Path) -> dict[str, str]:
    """The environment of a reader of the page about NAVER, who writes its file with their values."""
    (lines,) = re.findall(r"^```\n(access_key.+?)^```", (ROOT / PAGE).read_text(), re.MULTILINE | re.DOTALL)
    values = {
        "the Access Key ID": USER,
        "the Secret Key": PASSWORD,
        "the Project ID": swift.keystone.project_id,
        "the Domain ID": "default",
    }
    for words, value in values.items():
        assert f"= {words}\n" in lines
        lines = lines.replace(f"= {words}\n", f"= {value}\n")
    home, answers = tmp_path / "home", tmp_path / "answers"
    home.mkdir()
    answers.mkdir()
    # As the page says for another region.
    (answers / "photos.credentials").write_text(f"{lines}auth_url = {swift.keystone.url}\n")
    environment = reader_s_environment(home)
    put_editor(home / "bin" / "nano", answers)
    return environment


def _follow(reader: Mapping[str, str]) -> str:
    """Run the page's commands up to those for root, as they are written."""
    commands = blocks(PAGE, "## 2. The credentials file", "## 4. At boot")
    return run_blocks(commands, ["bash", "-c"], dict(reader), ROOT)


def test_the_page_about_naver_is_followed(swift: KeystoneSwift, reader: dict[str, str]) -> None:
    swift_cli(swift, "post", "photos")  # in the console
    printed = _follow(reader)
    assert f"account: {swift.keystone.url} (user {USER})" in printed
    assert "advice: " in printed
    assert re.search(r"cost: \d+ requests", printed)
    assert swift_cli(swift, "download", "photos", "README.md", "-o", "-") == (ROOT / "README.md").read_text()
    assert PASSWORD not in printed


def test_the_page_about_naver_makes_a_bucket_that_is_missing(
    swift: KeystoneSwift, reader: dict[str, str]
) -> None:
    """`probe` comes first on the page, and says what to type."""
    swift_cli(swift, "post", "photos")
    swift_cli(swift, "delete", "photos")
    with pytest.raises(
        AssertionError, match=r"no container 'photos': check .* 'swiftfs mount --create photos FOLDER'"
    ):
        _follow(reader)
    setup, use = blocks(PAGE, "## 2. The credentials file", "## 4. At boot")
    run_blocks([setup, use.replace("swiftfs probe photos\n", "")], ["bash", "-c"], reader, ROOT)
    assert swift_cli(swift, "download", "photos", "README.md", "-o", "-") == (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        ("chmod 644 {}", "can be read by other users: chmod 600 it"),
        *((f"sed -i /{name}/d {{}}", f"{name} is missing") for name in NAVER_KEYS),
        ("sed -i 's/^secret_key = .*/secret_key = wrong/' {}", "wrong user or key"),
        ("sed -i 's/^project_id = .*/project_id = 0123/' {}", "but not the project '0123': the user may use"),
    ],
)
def test_a_mistake_in_the_file_of_the_page_about_naver_is_told(
    reader: dict[str, str], mistake: str, told: str
) -> None:
    file = "~/.config/swiftfs/photos.credentials"
    setup = blocks(PAGE, "## 2. The credentials file", "## 3. Try it")
    probe = f"! swiftfs probe photos --credentials {file}"
    printed = run_blocks([*setup, mistake.format(file), probe], ["bash", "-c"], reader, ROOT)
    last = printed.splitlines()[-1]
    assert last.startswith("swiftfs: ")
    assert told in last
    assert PASSWORD not in last


@pytest.mark.parametrize("may_make_containers", [True, False], ids=["an owner", "a sub account"])
def test_segments_lie_where_the_page_about_naver_says(
    swift: KeystoneSwift, tmp_path: Path, may_make_containers: bool
) -> None:
    name = "owners" if may_make_containers else "shared"
    environment = swift.environment()
    if not may_make_containers:
        user = swift.keystone.add_user("sub", "sub")
        allowed = f"{swift.keystone.project_id}:{user}"
        swift_cli(swift, "post", name, "-r", allowed, "-w", allowed)
        environment["OS_USERNAME"] = "sub"
    else:
        swift_cli(swift, "post", name)
    who: Any = _AnotherUser(environment)
    data = os.urandom(3 * 1024**2)
    with Mount(who, name, tmp_path, "segment_size=1M") as mount:
        (mount.path / "film").write_bytes(data)
        mount.remount()
        assert (mount.path / "film").read_bytes() == data
    place, prefix = (f"{name}_segments", "") if may_make_containers else (name, ".swiftfs-segments/")
    assert len([one for one in swift_cli(swift, "list", place).split() if one.startswith(prefix)]) >= 3
    told = f"segments of {name} go to {name}/.swiftfs-segments"
    assert (told in mount.log.read_text()) is not may_make_containers
