"""A command loads only what it needs: `swiftfs version` and every `--help` are fast."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from support.mounts import clean_environment
from swiftfs.cli import app

HEAVY = {
    "fuse",
    "keystoneauth1",
    "openstack",
    "prometheus_client",
    "requests",
    "rich.console",
    "sqlite3",
    "swiftclient",
    "urllib3",
    "swiftfs.journal",
    "swiftfs.service.mount",
    "swiftfs.store.connect",
}
"""Modules that take long to load."""

LOGIN = {"keystoneauth1", "requests", "swiftclient", "swiftfs.store.connect", "urllib3"}
"""Those that a login needs."""

SERVING = {"fuse", "swiftfs.fuse", "swiftfs.journal.journal", "swiftfs.posix", "swiftfs.service.serving"}
"""Those that a mount needs when it has logged in."""

RARE = {
    "difflib",
    "keystoneauth1.identity",
    "keystoneauth1.loading",
    "stevedore",
    "swiftfs.maintenance",
    "swiftfs.store.clouds",
    "tomllib",
}
"""Those that only a login at Keystone, a configuration file, a mistake or a trash needs."""

RECORDS = {"openstack", "prometheus_client", "rich"}
"""Those that options and other commands need."""

COMMANDS = sorted(app.main.commands)

ENTRY_POINTS = {
    "swiftfs": "swiftfs.__main__:main",
    "mount.swiftfs": "swiftfs.cli.mount_helper:main",
    "umount.fuse.swiftfs": "swiftfs.cli.mount_helper:unmount_main",
}

CODE = """
import atexit, pkgutil, sys
atexit.register(lambda: print("loaded", *sys.modules))
_, function, *sys.argv = sys.argv
pkgutil.resolve_name(function)()
"""


def run(
    *words: str, program: str = "swiftfs", environment: Mapping[str, str] | None = None, code: int = 0
) -> str:
    """Run a program that ends with `code`; return its output, with the modules that it has loaded."""
    result = subprocess.run(
        [sys.executable, "-c", CODE, ENTRY_POINTS[program], program, *words],
        env={**clean_environment(), **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == code, result.stderr
    return result.stdout


def complete(*words: str, incomplete: str) -> str:
    """Let bash complete a command line of swiftfs; return as `run` does."""
    return run(
        environment={
            "_SWIFTFS_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(["swiftfs", *words, incomplete]),
            "COMP_CWORD": str(len(words) + 1),
        }
    )


def loaded(output: str) -> set[str]:
    """Return the modules that a program has loaded."""
    return set(output.rpartition("loaded ")[2].split())


def heavy(output: str) -> set[str]:
    """Return the heavy modules among those that a program has loaded."""
    return HEAVY & loaded(output)


def test_the_version_loads_no_library() -> None:
    output = run("version")
    assert "swiftfs " in output
    assert heavy(output) == set()


@pytest.mark.parametrize("words", [("--help",), ("--version",)])
def test_the_help_loads_no_command(words: tuple[str]) -> None:
    output = run(*words)
    assert output.startswith(("Usage: swiftfs ", "swiftfs, version "))
    assert heavy(output) == set()
    commands = {name for name in loaded(output) if name.startswith("swiftfs.cli.")}
    declared = ("app", "command_line", "account_commands")
    assert commands <= {f"swiftfs.cli.{name}" for name in declared}


@pytest.mark.matrix(10)
@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_loads_no_library(command: str) -> None:
    output = run(command, "--help")
    assert "Usage: " in output
    assert heavy(output) == set()


@pytest.mark.parametrize("program", ["mount.swiftfs", "umount.fuse.swiftfs"])
def test_the_help_of_a_helper_loads_no_library(program: str) -> None:
    output = run("--help", program=program)
    assert f"Usage: {program}" in output
    assert heavy(output) == set()


@pytest.mark.parametrize(
    ("words", "incomplete", "found"),
    [((), "moun", "mount"), (("mount",), "--read-a", "--read-ahead"), (("gc",), "--del", "--delete")],
)
def test_completion_loads_no_library(words: tuple[str, ...], incomplete: str, found: str) -> None:
    output = complete(*words, incomplete=incomplete)
    assert found in output
    assert heavy(output) == set()


@pytest.mark.parametrize(
    ("code", "later", "most"),
    [
        ("import swiftfs.cli.mount", LOGIN | SERVING | RECORDS | RARE, 235),
        ("import swiftfs.cli.mount, swiftfs.service.mount", SERVING | RECORDS | RARE, 485),
        ("from swiftfs.service import mount; mount._load('2')", RECORDS | RARE, 605),
    ],
    ids=["in the command, which only waits", "until the login", "while it logs in"],
)
def test_a_start_loads_what_it_needs_when_it_needs_it(code: str, later: set[str], most: int) -> None:
    """Imports are most of a start: what the login needs comes first; what no start needs is not loaded.

    Each module more is a third of a millisecond; a library that is needed may raise the number.
    """
    needed = (LOGIN | SERVING | RECORDS) - later
    words = (sys.executable, "-c", f"import sys; {code}; print('loaded', *sys.modules)")
    found = loaded(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert found & later == set()
    assert found >= needed
    assert len(found) <= most


@pytest.mark.parametrize(
    ("words", "more"),
    [
        (("status",), set()),
        (("status", "--json"), set()),
        (("flush",), set()),
        (("retry",), set()),
        (("set",), set()),
        (("umount",), {"sqlite3"}),  # by the module with the file names of a cache folder
    ],
)
def test_a_command_about_a_mount_loads_no_part_of_one(
    words: tuple[str, ...], more: set[str], tmp_path: Path
) -> None:
    output = run(*words, str(tmp_path), code=1)
    assert heavy(output) <= {"swiftfs.journal", *more}
    floors = ("filecache", "fuse", "journal", "namespace", "posix", "store")
    parts = {name for name in loaded(output) if name.startswith(tuple(f"swiftfs.{one}." for one in floors))}
    # The values of a report and of limits, and the check of the files of a configuration: none loads
    # more.
    values = {"swiftfs.journal.queue_report", "swiftfs.store.throttle"}
    assert parts <= {*values, "swiftfs.store.private_files"}
