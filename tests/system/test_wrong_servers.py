"""What commands say of a server that is none, that cannot serve, or that refuses: one line each."""

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


@pytest.mark.matrix(3)
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("response", "said"),
    [
        (Response(status=503, headers={"Retry-After": "3600"}), "the server cannot serve {} now, 503 Service"),
        (PAGE, "{}: the answer is not Swift's"),
    ],
    ids=["503", "page"],
)
def test_commands_say_what_is_wrong_with_the_server(
    server: HostileServer, command: str, response: Response, said: str
) -> None:
    server.info = server.response = response
    result = swiftfs(*command.split(), environment=server.environment)
    code = 2 if command.startswith("check") else 1
    line = one_line(result, code)
    assert server.url in line
    assert "_page" not in line
    assert quoted(line)
