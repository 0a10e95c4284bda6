"""A pytest plugin for the memory of a process that runs tests: it is freed, and reported if it is too much.

There are two such processes a core, and a Swift beside each.
"""

import contextlib
import ctypes
import gc
import resource
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

LIMIT = 300
"""MiB of memory of its own that a process should take at most."""
GROWTH = 32
"""MiB by which resident memory grows before unused memory is freed after a test."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Parameters of mallopt(3)."""


class WorkerMemory:
    """Frees what tests have left in cycles; at the end names the test in which a process took most."""

    def __init__(self) -> None:
        self._resident = 0
        """MiB before the first test, or after memory was freed the last time."""
        self._most = (0, "")
        """MiB that this process has taken, and the test in which it did."""
        self._too_much: list[tuple[int, str]] = []
        """The same of all processes that have taken more than `LIMIT`."""
        _share_heaps()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Hide the modules and the collected tests from the garbage collector.

        They stay until the end, and a collection that looks through them takes 0.1 s, after thousands of
        tests.
        """
        _forget_results(session.config)
        gc.collect()
        gc.freeze()
        self._resident = _resident()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Free what tests have left in cycles, if it is much, and return it to the system."""
        result = yield
        _forget_results(item.config)
        if (most := _own_peak()) > self._most[0]:
            self._most = most, item.nodeid
        if _resident() > self._resident + GROWTH:
            gc.collect()
            with contextlib.suppress(AttributeError):  # not glibc
                ctypes.CDLL(None).malloc_trim(0)
            # What is left now is in use: to look again after each test would take longer than most of them.
            self._resident = _resident()
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Tell the process that reports; it is this one without `-n`."""
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["most memory"] = self._most
        else:
            self._add(self._most)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take what a process has told, unless it crashed."""
        self._add(getattr(node, "workeroutput", {}).get("most memory", (0, "")))

    def _add(self, most: tuple[int, str]) -> None:
        if most[0] > LIMIT:
            self._too_much.append(most)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Name the tests in which processes took too much."""
        for size, where in self._too_much:
            terminalreporter.write_line(
                f"a process took {size} MiB, more than {LIMIT}, in {where}", yellow=True
            )


def _forget_results(config: pytest.Config) -> None:
    """Let a worker forget deselected tests and reports: its terminal plugin keeps all, and prints none."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and hasattr(config, "workerinput"):
        reporter.stats.clear()


def _share_heaps() -> None:
    """Let threads share two heaps: by default glibc has many, and what one has freed no other can use.

    The bodies of large files lie outside the heaps, so that their memory is returned when they are freed. Of
    the heaps 16 MiB that are free are kept: else the pages of most bodies would come and go with each test,
    which took a tenth of the time.
    """
    with contextlib.suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**22)
        ctypes.CDLL(None).mallopt(M_TRIM_THRESHOLD, 2**24)


def _resident() -> int:
    """Return the resident memory of this process in MiB."""
    return _pages(1) * resource.getpagesize() // 2**20


def _own_peak() -> int:
    """Return the most memory that this process has taken, in MiB, without the pages of files that it has now.

    These are mostly those of libraries, 22 MiB, which the system has once for all processes.
    """
    shared = _pages(2) * resource.getpagesize()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - shared) // 2**20


def _pages(column: int) -> int:
    """Return a number of statm, see proc_pid_statm(5): 1 are all resident pages, 2 those of files."""
    return int(Path("/proc/self/statm").read_text().split()[column])
