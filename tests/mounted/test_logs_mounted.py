"""The log: priorities for systemd's journal, request ids, and that repeated lines are counted.

These run in a real mount.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.mounts import Mount
from swiftfs.demo.server import Fault, SwiftServer


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


def test_log_lines_of_ours_are_not_taken_for_those_of_libfuse(tmp_path: Path) -> None:
    code = """if True:
        import logging, os
        from swiftfs.service.daemon import log_to_terminal
        from swiftfs.fuse.binding import DivertedStderr
        log_to_terminal(20)
        diverted = DivertedStderr()
        os.write(2, b"theirs")
        logging.info("ours")
        assert diverted.restore() == "theirs"
    """
    stream = tmp_path / "stream"
    with stream.open("wb") as file:
        subprocess.run([sys.executable, "-c", code], stderr=file, check=True)
    assert stream.read_text() == "INFO: ours\n"


def test_the_terminal_is_closed_when_the_log_goes_elsewhere(tmp_path: Path) -> None:
    """A program that reads standard error of `swiftfs mount` to its end would wait for the mount's end."""
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
