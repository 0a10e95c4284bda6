"""Counts the work of a call: lines of code and memory, which do not depend on the machine's load."""

import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType, ModuleType
from typing import Any

import swiftfs.filecache


@dataclass(frozen=True, slots=True)
class Work:
    """Lines of a package executed in the calling thread, and the peak of allocated bytes."""

    lines: int
    memory: int


def work_of(step: Callable[[], object], package: ModuleType = swiftfs.filecache) -> Work:
    """Make a call and return its work."""
    lines, folder = 0, package.__path__[0]

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal lines
        if not frame.f_code.co_filename.startswith(folder):
            return None
        lines += event == "line"
        return trace

    before = sys.gettrace()
    tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        start = tracemalloc.get_traced_memory()[0]
        sys.settrace(trace)
        try:
            step()
        finally:
            sys.settrace(before)
        return Work(lines, tracemalloc.get_traced_memory()[1] - start)
    finally:
        tracemalloc.stop()
