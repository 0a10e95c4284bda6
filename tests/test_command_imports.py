"""What a command does not need it does not load: `swiftfs version` and every `--help` answer at once."""

import subprocess
import sys
from collections.abc import Mapping

import pytest
from mounts import clean_environment

from swiftfs.cli import app

HEAVY = {
    "cattrs",
    "fuse",
    "keystoneauth1",
    "openstack",
    "prometheus_client",
    "requests",
    "rich",
    "sqlite3",
    "swiftclient",
    "tenacity",
    "urllib3",
    "swiftfs.journal",
    "swiftfs.service.mount",
    "swiftfs.store",
}
"""Modules that take long to load."""

COMMANDS = sorted(app.main.commands)

ENTRY_POINTS = {
    "swiftfs": "swiftfs.cli.app:main",
    "mount.swiftfs": "swiftfs.cli.mount_helper:main",
    "umount.fuse.swiftfs": "swiftfs.cli.mount_helper:unmount_main",
}

CODE = """
import atexit, pkgutil, sys
atexit.register(lambda: print("loaded", *sys.modules))
_, function, *sys.argv = sys.argv
pkgutil.resolve_name(function)()
"""


def run(*words: str, program: str = "swiftfs", environment: Mapping[str, str] | None = None) -> str:
    """Run a program; return what it prints, and then the modules it has loaded."""
    result = subprocess.run(
        [sys.executable, "-c", CODE, ENTRY_POINTS[program], program, *words],
        env={**clean_environment(), **(environment or {})},
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout


def complete(*words: str, incomplete: str) -> str:
    """Have bash complete a command line of swiftfs; return as `run` does."""
    return run(
        environment={
            "_SWIFTFS_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(["swiftfs", *words, incomplete]),
            "COMP_CWORD": str(len(words) + 1),
        }
    )


def heavy(output: str) -> set[str]:
    """Return the heavy modules among those that a program has loaded."""
    return HEAVY & set(output.rpartition("loaded ")[2].split())


def test_the_version_loads_no_library() -> None:
    output = run("version")
    assert "swiftfs " in output
    assert heavy(output) == set()


@pytest.mark.parametrize("words", [("--help",), ("--version",)])
def test_the_help_loads_no_command(words: tuple[str]) -> None:
    output = run(*words)
    assert output.startswith(("Usage: swiftfs ", "swiftfs, version "))
    assert heavy(output) == set()
    loaded = {name for name in output.split() if name.startswith("swiftfs.cli.")}
    assert loaded <= {"swiftfs.cli.app", "swiftfs.cli.options"}


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
