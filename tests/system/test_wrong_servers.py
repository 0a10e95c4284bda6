"""What commands say of a server that is none, that cannot serve, or that refuses: one line each."""

import re
from collections.abc import Iterator

import pytest

from support.commands import one_line, swiftfs
from support.hostile_server import HostileServer, Response, hostile_server
from support.troubleshooting import quoted

COMMANDS = (
    "check photos",
    "gc photos",
    "probe photos",
    "trash list photos",
    "cp photos/a photos/b",
    "share photos/a --for 1d",
    "restore photos/a --list",
)

PAGE = Response(b"<html>Welcome to our hotel</html>")
SSH = Response(raw=b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n")


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with hostile_server() as server:
        yield server


@pytest.mark.parametrize(
    ("login", "said"),
    [
        (PAGE, "cannot authenticate there, the answer has no token (HTTP 200): check the auth URL"),
        (SSH, "it does not speak HTTP, but says 'SSH-2.0-OpenSSH_9.2p1'"),
    ],
    ids=["page", "ssh"],
)
def test_a_login_at_something_else(server: HostileServer, login: Response, said: str) -> None:
    server.login = login
    line = one_line(swiftfs("check", "photos", environment=server.environment), 2)
    assert said in line
    assert quoted(line)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_server_that_cannot_serve(server: HostileServer, command: str) -> None:
    # With a pause that no command waits for, so that nothing is repeated.
    server.info = server.response = Response(status=503, headers={"Retry-After": "3600"})
    line = one_line(swiftfs(*command.split(), environment=server.environment), code_of(command))
    assert line.startswith(f"swiftfs: {server.url}/auth (user u): the server cannot serve ")
    assert " now, 503 Service Unavailable; the server asks for a pause of 1 h" in line
    assert quoted(line)


@pytest.mark.parametrize("command", ["check photos", "trash list photos", "restore photos/a --list"])
def test_a_user_without_permission(server: HostileServer, command: str) -> None:
    server.response = Response(status=403)
    line = one_line(swiftfs(*command.split(), environment=server.environment), code_of(command))
    assert line.startswith(f"swiftfs: {server.url}/auth (user u) may not use photos: check the user's rights")
    assert quoted(line)


@pytest.mark.slow
@pytest.mark.matrix(2)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_page_instead_of_swift_s_answers(server: HostileServer, command: str) -> None:
    # Without the counts that the server adds to its own answers.
    server.info = server.response = Response(raw=b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + PAGE.body)
    line = one_line(swiftfs(*command.split(), environment=server.environment), code_of(command))
    assert re.search(
        r"the answer is not Swift's, it has no [a-z-]+: check the storage URL and the proxy", line
    )
    assert quoted(line)


def code_of(command: str) -> int:
    """Return the exit code of a command that fails."""
    return 2 if command.startswith("check") else 1
