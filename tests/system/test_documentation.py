"""The generated pages are current, and what pages say is true."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from swiftclient import Connection

from support.commands import swiftfs
from support.mounts import Mount
from support.noise import noise
from support.pages import put_program, reader_s_environment
from swiftfs.config.options import OPTIONS
from swiftfs.demo.server import SwiftServer
from tools import docs

PAGES = sorted(
    path.relative_to(docs.ROOT)
    for path in (*docs.ROOT.glob("*.md"), *docs.ROOT.glob("docs/**/*.md"))
    if path.name != "CHANGELOG.md"
)


def test_the_generated_pages_are_current() -> None:
    assert list(docs.stale()) == [], "run ./dev docs"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = _without_code((docs.ROOT / page).read_text())
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    for path, anchor in (link.partition("#")[::2] for link in links):
        target = (docs.ROOT / page).parent / path if path else docs.ROOT / page
        assert target.exists(), f"{page} links to {path}"
        assert not anchor or anchor in _anchors(target), f"{page} links to {path}#{anchor}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen, todo = set[Path](), [docs.ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page not in seen and page.suffix == ".md":
            seen.add(page)
            links = re.findall(r"\]\(([^)#\s]+)", _without_code(page.read_text()))
            todo += [(page.parent / link).resolve() for link in links if "://" not in link]
    assert {docs.ROOT / page for page in PAGES} - seen == set()


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_the_modules_and_tests_that_a_page_names_exist(page: Path) -> None:
    text = (docs.ROOT / page).read_text()
    named = {
        *re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.py)`", text),
        *(f"{name}.py" for name in re.findall(r"`(test_[a-z_]+)`", text)),
    }
    folders = ("swiftfs", "tests", "tools", "benchmarks")
    files = [path.as_posix() for folder in folders for path in (docs.ROOT / folder).rglob("*.py")]
    assert {name for name in named if not any(file.endswith(f"/{name}") for file in files)} == set()


def test_the_files_table_names_what_a_mount_leaves(mounted: Mount) -> None:
    (mounted.path / "file").write_text("x")
    swiftfs("flush", str(mounted.path))
    (mounted.path / "file").read_text()
    left = {path.name for path in mounted.cache.iterdir()}
    mounted.stop()
    left |= {path.name for path in mounted.cache.iterdir()}
    text = (docs.ROOT / "docs" / "configuration.md").read_text()
    assert left - set(re.findall(r"[\w.-]+", text[text.index("## Files") :])) == set()


@pytest.mark.skipif(shutil.which("groff") is None, reason="no groff here")
@pytest.mark.parametrize("page", ["swiftfs.1", "mount.swiftfs.8"])
def test_the_man_pages_have_no_errors(page: str) -> None:
    command = ["groff", "-man", "-Tascii", "-ww", "-P-c", str(docs.ROOT / "man" / page)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stderr == ""
    for name in OPTIONS:
        assert name in re.sub(".\b", "", result.stdout)


def test_the_version_has_what_a_bug_report_needs() -> None:
    lines = swiftfs("version").stdout.splitlines()
    versions = dict(line.split(" ", 1) for line in lines)
    assert {
        "swiftfs",
        "python",
        "linux",
        "libfuse2",
        "libfuse3",
        "fusermount",
        "fusepy",
        "openstacksdk",
    } <= versions.keys()
    assert versions["libfuse2"].startswith("2.")
    assert versions["libfuse3"].startswith("3.")
    assert "mfusepy" in versions


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_available_for_shells(shell: str) -> None:
    script = swiftfs(environment={"_SWIFTFS_COMPLETE": f"{shell}_source"})
    assert script.returncode == 0 or "bash" in shell
    words = {
        "COMP_WORDS": "swiftfs mount --read",
        "COMP_CWORD": "--read" if shell == "fish" else "2",
        "_SWIFTFS_COMPLETE": f"{shell}_complete",
    }
    assert "--read-ahead" in swiftfs(environment=words).stdout


SEES_OWN_MOUNTS = f"""
grep -F "$HOME/" /proc/self/mountinfo >"$HOME/bin/mounts"
exec {sys.executable} -c 'import pathlib, sys
from swiftfs.cli.app import main
from swiftfs.control import client
client.OWN_TABLE = pathlib.Path(sys.argv.pop(1))
main(prog_name="swiftfs")' "$HOME/bin/mounts" "$@"
"""
"""`swiftfs` as if only the mounts in the home folder existed: `status` asks all, and others may hang."""


def run_commands(page: str, swift: SwiftServer, home: Path) -> dict[str, str]:
    """Run the commands of a page in its order, with `home` as the home folder; return what each printed."""
    commands = re.findall(r"^\$ (.+)$", (docs.ROOT / "docs" / page).read_text(), re.MULTILINE)
    environment = {**reader_s_environment(home), **swift.environment()}
    put_program(home / "bin" / "swiftfs", SEES_OWN_MOUNTS)
    printed = {}
    for command in commands:
        result = subprocess.run(
            command, shell=True, env=environment, capture_output=True, text=True, check=False, cwd=home
        )
        assert result.returncode == 0, (command, result)
        printed[command] = result.stdout
    return printed


@pytest.mark.slow
def test_the_commands_of_operations_run(swift: SwiftServer, connection: Connection, tmp_path: Path) -> None:
    connection.put_container("photos")
    assert len(run_commands("operations.md", swift, tmp_path)) >= 8
    assert connection.get_object("photos", "first")[1] == Path("/etc/hostname").read_bytes()


def test_an_archive_is_loaded_checked_and_restored_as_its_page_says(
    swift: SwiftServer, connection: Connection, tmp_path: Path
) -> None:
    connection.put_container("archive")
    year = tmp_path / "data" / "2026"
    year.mkdir(parents=True)
    for number in range(20):
        (year / f"{number}.txt").write_text(f"{number}\n")
    with (year / "film.mov").open("wb") as film:
        film.writelines(noise(2**20, number) for number in range(70))  # in segments
    printed = run_commands("archive.md", swift, tmp_path)
    assert printed["rsync -an --itemize-changes ~/data/ ~/archive/data/"] == ""
    restored = tmp_path / "restored" / "data" / "2026" / "film.mov"
    assert restored.stat().st_mtime == pytest.approx((year / "film.mov").stat().st_mtime, abs=1e-3)


def _without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
