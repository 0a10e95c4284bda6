"""The log: priorities for the journal, request ids, and no line over and over."""

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from log_records import record
from mounts import Mount

from swiftfs.demo.server import Fault, SwiftServer
from swiftfs.service import logging as logs
from swiftfs.service.logging import JournalFormatter, Repetition


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the log sees; a test moves it."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_a_message_is_logged_once_a_minute_and_then_counted(clock: list[float]) -> None:
    repetition = Repetition()
    passed = [repetition.filter(record("down")) for _ in range(5)]
    assert passed == [True, False, False, False, False]
    clock[0] += 61
    again = record("down")
    assert repetition.filter(again)
    assert again.getMessage() == "down (4 more like it in 61 s)"
    clock[0] += 61
    once = record("down")
    assert repetition.filter(once)
    assert once.getMessage() == "down"


def test_request_ids_and_pauses_make_no_other_message(clock: list[float]) -> None:
    repetition = Repetition()
    assert repetition.filter(record("put box/f: 503 (tx0123-45); again in 0.3 s"))
    assert not repetition.filter(record("put box/f: 503 (tx9876-ab); again in 1.7 s"))
    assert repetition.filter(record("put box/g: 503 (tx9876-ab); again in 1.7 s"))
    assert repetition.filter(record("put box/f: 503 (tx0123-45); again in 0.3 s", logging.WARNING))


def test_debug_messages_all_pass(clock: list[float]) -> None:
    repetition = Repetition()
    assert all(repetition.filter(record("read", logging.DEBUG)) for _ in range(3))


def test_what_is_remembered_is_bounded(clock: list[float]) -> None:
    repetition = Repetition()
    for number in range(2 * logs.REMEMBERED):
        assert repetition.filter(record(f"file{number}"))
    assert repetition.filter(record("file0"))


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7)],
)
def test_the_journal_s_priorities(level: int, priority: int) -> None:
    assert JournalFormatter().format(record("one\ntwo", level)) == f"<{priority}>one\n<{priority}>two"


@pytest.mark.parametrize("journal", [True, False])
def test_lines_have_a_priority_only_where_the_journal_reads_them(tmp_path: Path, journal: bool) -> None:
    stream = tmp_path / "stream"
    with stream.open("wb") as file:
        found = os.fstat(file.fileno())
        inode = found.st_ino if journal else found.st_ino + 1
        code = "import logging; from swiftfs.service.daemon import log_to_terminal as t; t(20)"
        code += "; logging.info('hello')"
        environment = {**os.environ, "JOURNAL_STREAM": f"{found.st_dev}:{inode}"}
        subprocess.run([sys.executable, "-c", code], stderr=file, env=environment, check=True)
    assert stream.read_text() == ("<6>hello\n" if journal else "INFO: hello\n")


def test_a_line_of_ours_is_not_caught_with_those_of_libfuse(tmp_path: Path) -> None:
    code = """if True:
        import logging, os
        from swiftfs.service.daemon import log_to_terminal
        from swiftfs.fuse.binding import _DivertedStderr
        log_to_terminal(20)
        diverted = _DivertedStderr()
        os.write(2, b"theirs")
        logging.info("ours")
        assert diverted.restore() == "theirs"
    """
    stream = tmp_path / "stream"
    with stream.open("wb") as file:
        subprocess.run([sys.executable, "-c", code], stderr=file, check=True)
    assert stream.read_text() == "INFO: ours\n"


def test_the_terminal_is_left_when_the_log_goes_elsewhere(tmp_path: Path) -> None:
    """Whoever reads the standard error of `swiftfs mount` to its end would wait for the mount's."""
    code = f"""if True:
        import logging, os
        from pathlib import Path
        from swiftfs.service import daemon
        daemon.log_to_terminal(20)
        late = logging.getLogger().handlers[0]
        daemon.log_to_terminal(20)
        daemon._listens = lambda _: False
        daemon.log_to_system(20, Path({str(tmp_path)!r}))
        ours = [os.path.realpath("/proc/self/fd/" + fd) for fd in os.listdir("/proc/self/fd") if int(fd) > 2]
        assert {str(tmp_path / "swiftfs.log")!r} in ours, ours
        assert {str(tmp_path / "stream")!r} not in ours, ours
        late.handle(logging.LogRecord("late", 20, "", 0, "late", (), None))
    """
    stream = tmp_path / "stream"
    with stream.open("wb") as file:
        subprocess.run([sys.executable, "-c", code], stderr=file, check=True)
    assert stream.read_text() == ""


def test_an_error_of_the_server_names_the_request(mounted: Mount, swift: SwiftServer) -> None:
    (mounted.path / "file").write_text("text")
    mounted.remount()
    swift.inject(
        Fault(method="GET", path="/file", status=503, times=3, headers={"X-Trans-Id": "tx0123-4567"})
    )
    assert (mounted.path / "file").read_text() == "text"
    lines = [line for line in mounted.log.read_text().splitlines() if "503" in line]
    assert len(lines) == 1, "three failures, one line"
    assert re.fullmatch(r"INFO: get \S+/file: 503 .* \(tx\w+-\w+\); again in [\d.]+ s", lines[0])
