"""A real OpenStack Keystone on loopback: a child process with waitress, with SQLite and keys in its folder.

The child reads its configuration as a line of JSON on stdin, which ends when the parent has ended; a line on
stdout has the port it serves. Setup: https://docs.openstack.org/keystone/latest/install/
"""

import contextlib
import importlib
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from keystoneauth1.identity import v3
from keystoneauth1.session import Session

from swiftfs.demo.server import Keystone, SwiftServer

HOST = "127.0.0.1"
START_SECONDS = 60.0
REGION = "one"
ADMIN = "admin"
ADMIN_PASSWORD = "the-operators-secret"
USER = "archivist"
PASSWORD = "the-archivists-secret"
PROJECT = "archive"
ROLE = "swiftoperator"
"""A role whose users own the account of their project: a default of Swift's keystoneauth."""
TOKEN_LIFE = 3600

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class KeystoneServer:
    """A Keystone with an operator and the user `USER`, owner of `PROJECT` in the domain `default`."""

    def __init__(self) -> None:
        self.url = ""
        self.project_id = ""
        self.user_id = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._session: Session | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="keystone-")

    def __enter__(self) -> "KeystoneServer":
        try:
            self._start()
            self._add_user()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def environment(self) -> dict[str, str]:
        """Return the variables of `USER`, with all names."""
        return {
            "OS_AUTH_URL": self.url,
            "OS_USERNAME": USER,
            "OS_PASSWORD": PASSWORD,
            "OS_PROJECT_NAME": PROJECT,
            "OS_USER_DOMAIN_NAME": "Default",
            "OS_PROJECT_DOMAIN_NAME": "Default",
        }

    def for_swift(self) -> Keystone:
        """Return the account with which a Swift has its tokens validated."""
        return Keystone(auth_url=self.url, user=ADMIN, password=ADMIN_PASSWORD, project=ADMIN)

    def add_swift(self, swift: SwiftServer) -> None:
        """Enter `swift` into the catalog as the object store."""
        service = self._create("service", {"type": "object-store", "name": "swift"})
        url = f"http://{HOST}:{swift.port}/v1/AUTH_%(project_id)s"
        self._create(
            "endpoint", {"interface": "public", "region_id": REGION, "service_id": service, "url": url}
        )

    def add_user(self, name: str, role: str, *, in_project: bool = True) -> str:
        """Make a user of `PROJECT`, or of none, with a new role and `PASSWORD`; return its id."""
        user = self._create("user", {"name": name, "password": PASSWORD, "domain_id": "default"})
        made = self._create("role", {"name": role})
        if in_project:
            self._admin("PUT", f"/v3/projects/{self.project_id}/users/{user}/roles/{made}")
        return user

    def revoke(self, user: str) -> None:
        """Disable a user: their tokens become invalid, and they get no others."""
        self._admin("PATCH", f"/v3/users/{user}", {"user": {"enabled": False}})

    def own(self) -> Session:
        """Return a session of `USER`."""
        login = v3.Password(
            self.url, username=USER, password=PASSWORD, project_id=self.project_id, user_domain_id="default"
        )
        return Session(login, timeout=30)

    def application_credential(self) -> tuple[str, str]:
        """Return id and secret of a new application credential of `USER`."""
        session = self.own()
        url = f"{self.url}/users/{self.user_id}/application_credentials"
        answer = session.post(url, json={"application_credential": {"name": "swiftfs"}})
        session.session.close()
        made = answer.json()["application_credential"]
        return str(made["id"]), str(made["secret"])

    def set_token_life(self, seconds: int) -> None:
        """Set how many seconds new tokens are valid."""
        self._admin("PUT", "/_control", seconds)

    def logins(self, user: str = USER) -> int:
        """Return how many tokens were requested with the password of `user`."""
        names: list[str] = self._admin("GET", "/_control")
        return names.count(user)

    def _start(self) -> None:
        folder = Path(self._folder.name)
        with (folder / "keystone.log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(str(folder)).encode() + b"\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], START_SECONDS)
        port = self._process.stdout.readline().decode().strip() if ready else ""
        assert port, (folder / "keystone.log").read_text()[-2000:]
        self.url = f"http://{HOST}:{port}/v3"
        operator = v3.Password(
            self.url,
            username=ADMIN,
            password=ADMIN_PASSWORD,
            project_name=ADMIN,
            user_domain_id="default",
            project_domain_id="default",
        )
        self._session = Session(operator, timeout=30)

    def _add_user(self) -> None:
        self.project_id = self._create("project", {"name": PROJECT, "domain_id": "default"})
        self.user_id = self.add_user(USER, ROLE)

    def _create(self, kind: str, value: object) -> str:
        return str(self._admin("POST", f"/v3/{kind}s", {kind: value})[kind]["id"])

    def _admin(self, method: str, path: str, value: object = None) -> Any:
        assert self._session is not None
        url = self.url.removesuffix("/v3") + path
        answer = self._session.request(url, method, json=value)
        return answer.json() if answer.content else None

    def _stop(self) -> None:
        if self._session is not None:
            self._session.session.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
        self._folder.cleanup()


class _Control:
    """A WSGI application in front of Keystone's: counts logins, and changes how long tokens are valid."""

    def __init__(self, application: Application, set_token_life: Callable[[int], None]) -> None:
        self._application = application
        self._set_token_life = set_token_life
        self._names: list[str] = []

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/_control":
            return self._answer(environ, start_response)
        if (environ["REQUEST_METHOD"], environ["PATH_INFO"]) == ("POST", "/v3/auth/tokens"):
            # waitress hands the body over as a file that can be read again.
            asked = json.load(environ["wsgi.input"])
            environ["wsgi.input"].seek(0)
            user = asked["auth"]["identity"].get("password", {}).get("user", {})
            self._names.append(user.get("name", ""))
        return self._application(environ, start_response)

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "PUT":
            self._set_token_life(json.load(environ["wsgi.input"]))
        body = json.dumps(self._names).encode()
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]


def main() -> None:
    """Set up a Keystone in the folder that stdin names, and serve it until the parent has ended."""
    warnings.simplefilter("ignore")
    folder = Path(json.loads(sys.stdin.buffer.readline()))
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen(128)
        configuration = _configure(folder)
        _make_keystone(configuration, listener.getsockname()[1])
        threading.Thread(target=_watch_parent, args=(folder,), daemon=True).start()
        _serve(configuration, listener)


def _configure(folder: Path) -> Path:
    sections = {
        "DEFAULT": {"use_stderr": "true", "log_dir": ""},
        "database": {"connection": f"sqlite:///{folder}/keystone.db"},
        # Without a cache and with real work factors each token costs a second.
        "cache": {"enabled": "true", "backend": "dogpile.cache.memory_pickle"},
        "identity": {"password_hash_rounds": "4"},
        "token": {"expiration": str(TOKEN_LIFE)},
        "fernet_tokens": {"key_repository": f"{folder}/tokens"},
        "fernet_receipts": {"key_repository": f"{folder}/receipts"},
        "credential": {"key_repository": f"{folder}/credentials"},
    }
    lines = [
        line
        for name, options in sections.items()
        for line in (f"[{name}]", *(f"{option} = {value}" for option, value in options.items()))
    ]
    file = folder / "keystone.conf"
    file.write_text("\n".join(lines) + "\n")
    return file


def _make_keystone(configuration: Path, port: int) -> None:
    owner = [f"--keystone-user={os.getuid()}", f"--keystone-group={os.getgid()}"]
    _manage(configuration, "db_sync")
    _manage(configuration, "fernet_setup", *owner)
    words = ["--bootstrap-password", ADMIN_PASSWORD, "--bootstrap-region-id", REGION]
    _manage(configuration, "bootstrap", *words, "--bootstrap-public-url", f"http://{HOST}:{port}/v3")


def _manage(configuration: Path, *words: str) -> None:
    """Run `keystone-manage` in a fork: its import takes a second, and each command needs a fresh process."""
    manage = importlib.import_module("keystone.cmd.manage")
    pid = os.fork()
    if pid:
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status:
            raise RuntimeError(f"keystone-manage {words[0]} ended with {status}")
        return
    sys.argv = ["keystone-manage", "--config-file", str(configuration), *words]
    status = 1
    try:
        manage.main()
        status = 0
    finally:
        sys.stderr.flush()
        os._exit(status)


def _serve(configuration: Path, listener: socket.socket) -> None:
    sys.argv = ["keystone"]
    os.environ["OS_KEYSTONE_CONFIG_FILES"] = str(configuration)
    application = importlib.import_module("keystone.server.wsgi").initialize_public_application()
    options = importlib.import_module("keystone.conf").CONF

    def set_token_life(seconds: int) -> None:
        options.set_override("expiration", seconds, group="token")

    proxy = _Control(application, set_token_life)
    server = importlib.import_module("waitress").create_server(proxy, sockets=[listener], threads=4)
    print(listener.getsockname()[1], flush=True)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    server.run()


def _watch_parent(folder: Path) -> None:
    """End with the parent. A killed parent cannot remove the folder, so this process does."""
    os.read(sys.stdin.fileno(), 1)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
