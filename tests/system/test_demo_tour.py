"""`swiftfs demo`: the tour, its end by a signal at any moment, and errors."""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import psutil
import pytest
from rich.console import Console

import simulation
from support.deadlines import within
from support.mounts import clean_environment
from swiftfs.demo import tour
from swiftfs.demo.server import SwiftServer
from swiftfs.errors import ConfigurationError

DEMO = (sys.executable, "-m", "swiftfs", "demo")
SMALL_PACKAGE = Path(simulation.__file__)
SHORT_DEMO = (
    sys.executable,
    "-c",
    "from types import SimpleNamespace; from swiftfs.cli import app; from swiftfs.demo import tour; "
    f"tour.BIG_MIB = 24; tour.swiftfs = SimpleNamespace(__file__={str(SMALL_PACKAGE)!r}); app.main()",
    "demo",
)
"""The same with a file of two segments, and with a folder of fewer files."""


@pytest.fixture
def temporary(tmp_path: Path) -> Iterator[Path]:
    """A TMPDIR that must be empty after the demo, without a process or a mount of it."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    yield folder
    assert list(folder.iterdir()) == []
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
    # Swift ends when it notices that the demo has ended.
    started = [process for process in psutil.process_iter() if is_ours(process, tmp_path)]
    assert psutil.wait_procs(started, timeout=within(20))[1] == []


def is_ours(process: psutil.Process, folder: Path) -> bool:
    try:
        alive = process.status() != psutil.STATUS_ZOMBIE
        return alive and process.environ().get("TMPDIR", "").startswith(str(folder))
    except psutil.Error:
        return False


def start(temporary: Path, *words: object, demo: tuple[str, ...] = DEMO) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*demo, *map(str, words)],
        env={**clean_environment(), "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def read_until(process: subprocess.Popen[str], text: str) -> str:
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"{text!r} does not come: {seen}")


@pytest.mark.parametrize(
    "demo", [SHORT_DEMO, pytest.param(DEMO, marks=pytest.mark.slow)], ids=["short", "all"]
)
def test_the_tour_shows_what_it_does_and_leaves_nothing(temporary: Path, demo: tuple[str, ...]) -> None:
    with start(temporary, demo=demo) as process:
        output, _ = process.communicate(timeout=within(120))
    assert process.returncode == 0, output
    commands = re.findall(r"^  \$ (\S+)", output, re.MULTILINE)
    assert commands.count("swift") == 4
    assert commands.count("cp") == 2
    assert commands.count("swiftfs") == 10
    for text in ("all equal", "no differences", "restored 1 file", "temp_url_sig="):
        assert text in output
    assert re.search(r"requests to Swift: .*\d+ PUT", output)
    assert "big.bin" in output


@pytest.mark.slow
def test_with_a_mount_point_it_runs_until_a_signal(temporary: Path, tmp_path: Path) -> None:
    folder, data = tmp_path / "made" / "mnt", tmp_path / "data"
    with start(temporary, folder, "--data", data, demo=SHORT_DEMO) as process:
        assert_served(read_until(process, f"{tour.find_program('swift')} list"), folder)
        end(process, signal.SIGINT)
    assert not folder.parent.exists()
    # The second run finds the data folder of the first. A program that works there does not keep the mount.
    with start(temporary, folder, "--data", data, demo=SHORT_DEMO) as process:
        assert_served(read_until(process, f"{tour.find_program('swift')} list"), folder)
        descriptor = os.open(folder / "open", os.O_CREAT | os.O_WRONLY)
        try:
            assert "busy" in end(process, signal.SIGTERM)
        finally:
            with contextlib.suppress(OSError):  # its server is gone
                os.close(descriptor)
    assert not folder.exists()
    assert (data / "swift.log").exists()


def assert_served(seen: str, folder: Path) -> None:
    """Assert that the mount has the tour's files, and that the printed credentials are those of its Swift."""
    assert sorted(path.name for path in folder.iterdir()) == [tour.BIG, tour.COPY, tour.TREE]
    variables = re.search(r"export (ST_AUTH=\S+) (ST_USER=\S+) (ST_KEY=\S+)", seen)
    assert variables is not None
    environment = {**clean_environment(), **dict(word.split("=", 1) for word in variables.groups())}
    command = [tour.find_program("swift"), "list", tour.CONTAINER]
    listed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert f"{tour.BIG}\n" in listed.stdout


def end(process: subprocess.Popen[str], number: int) -> str:
    """Send a signal to the demo; return what it prints until it ends well."""
    process.send_signal(number)
    rest, _ = process.communicate(timeout=within(60))
    assert process.returncode == 0, rest
    return rest


@pytest.mark.matrix(2)
@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("starting", signal.SIGINT),
        ("$ swiftfs mount", signal.SIGTERM),
        ("$ cp -a", signal.SIGINT),
        ("$ cp big.bin", signal.SIGTERM),
        ("$ swift stat", signal.SIGHUP),
        ("$ cmp", signal.SIGINT),
    ],
)
def test_an_interruption_leaves_nothing(temporary: Path, moment: str, number: int) -> None:
    # The last steps must take so long that the signal comes in time.
    with start(temporary, demo=DEMO if moment in {"$ cp big.bin", "$ cmp"} else SHORT_DEMO) as process:
        if moment != "starting":
            read_until(process, moment)
        process.send_signal(number)
        rest, _ = process.communicate(timeout=within(60))
    assert process.returncode != 0
    assert "Traceback" not in rest or moment == "starting"  # Python itself may still be starting


@contextlib.contextmanager
def profiled(function: Callable[[FrameType, str, object], None]) -> Iterator[None]:
    sys.setprofile(function)
    try:
        yield
    finally:
        sys.setprofile(None)


def test_a_signal_right_after_the_fork_ends_the_command(tmp_path: Path) -> None:
    """`Popen` has not returned yet: only the frame of the handler knows the child."""

    def interrupt(_frame: FrameType, event: str, called: object) -> None:
        if event == "c_return" and getattr(called, "__name__", "") == "fork_exec":
            signal.raise_signal(signal.SIGHUP)

    interruption = tour.Interruption()
    demo = tour.Tour(SwiftServer(), tmp_path / "mnt", tmp_path, Console(file=io.StringIO()), interruption)
    with tour.handled_by(interruption), profiled(interrupt), pytest.raises(KeyboardInterrupt):
        demo.type("sleep", 600)
    commands = [child.cmdline() for child in psutil.Process().children()]
    assert [words for words in commands if words[-1:] == ["600"]] == []


def test_a_command_that_ignores_an_interruption_is_killed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tour, "INTERRUPT_SECONDS", 0.2)
    interruption = tour.Interruption()
    demo = tour.Tour(SwiftServer(), tmp_path / "mnt", tmp_path, Console(file=io.StringIO()), interruption)
    deaf = f"trap '' INT; echo $$ > {tmp_path}/pid; kill -TERM $PPID; exec sleep 600"
    with tour.handled_by(interruption), pytest.raises(KeyboardInterrupt):
        demo.type("sh", "-c", deaf)
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_missing_programs_are_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ConfigurationError, match=re.escape("pip install 'swiftfs[demo]'")):
        tour.run(None, None)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigurationError, match="needs the program fusermount"):
        tour.run(None, None)
    full = tmp_path / "full"
    (full / "x").mkdir(parents=True)
    with pytest.raises(ConfigurationError, match="is not empty"):
        tour.run(full, None)
    assert list(full.iterdir()) == [full / "x"]
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--data", "/proc/none"), "the demo cannot go on: /proc/none: No such file or directory"),
        (("/proc/none/mnt",), "the demo cannot go on: /proc/none: No such file or directory"),
        (("/etc/hostname",), "mount point /etc/hostname: Not a directory"),
    ],
)
def test_what_fails_is_one_line(temporary: Path, words: tuple[str, ...], said: str) -> None:
    with start(temporary, *words) as process:
        output, _ = process.communicate(timeout=within(60))
    assert (process.returncode, output) == (1, f"swiftfs: {said}\n")


def test_fusermount_needs_its_table_where_a_user_mounts(
    monkeypatch: pytest.MonkeyPatch, temporary: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(tour, "MTAB", tmp_path / "mtab")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ConfigurationError, match=r"fusermount needs .*mtab: 'ln -s /proc/self/mounts "):
        tour.run(None, None)
