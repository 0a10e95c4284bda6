"""Pages for a new user, followed literally; `test_followed_pages_real` follows all of them, as root too."""

import re
from pathlib import Path

import pytest
from swiftclient import Connection

from support.pages import ROOT, blocks, credentials, put_editor, reader_s_environment, run_blocks
from support.secret_files import secret_file
from swiftfs.config.credentials import read_credentials
from swiftfs.demo.server import SwiftServer


@pytest.fixture
def environment(server: SwiftServer, tmp_path: Path) -> dict[str, str]:
    """A user with a new home, who writes the right credentials into the file that a page names."""
    home, answers = tmp_path / "home", tmp_path / "answers"
    home.mkdir()
    answers.mkdir()
    (answers / "photos.credentials").write_text(credentials(server))
    environment = reader_s_environment(home)
    put_editor(home / "bin" / "nano", answers)
    return environment


@pytest.mark.matrix(1)
@pytest.mark.parametrize(
    ("page", "first", "end"),
    [
        ("README.md", "## Use it", "## What it promises"),
        ("docs/start.md", "## Log in", "## At boot with systemd"),
        ("docs/naver.md", "## 2. The credentials file", "## 4. At boot"),
    ],
)
def test_a_user_follows_the_page(
    server: SwiftServer, environment: dict[str, str], page: str, first: str, end: str
) -> None:
    commands = [block for block in blocks(page, first, end) if "sudo apt install" not in block]
    client = Connection(server.auth_url, server.user, server.key, retries=0)
    if page == "docs/naver.md":
        client.put_container("photos")  # in the console
    printed = run_blocks(commands, ["bash", "-c"], environment, ROOT)
    assert "advice: " in printed  # of probe
    assert client.get_object("photos", "README.md")[1] == (ROOT / "README.md").read_bytes()
    client.close()
    file = Path(environment["HOME"]) / ".config/swiftfs/photos.credentials"
    assert file.stat().st_mode & 0o777 == 0o600


def test_the_file_of_the_page_about_naver_is_read(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "naver.md").read_text()
    (lines,) = re.findall(r"^```\n(access_key.+?)^```", text, re.MULTILINE | re.DOTALL)
    read = read_credentials(secret_file(tmp_path, lines))
    assert read["OS_USERNAME"] == "the Access Key ID"
    assert re.findall(r"logs in at `(\S+)`", text) == [read["OS_AUTH_URL"]]
