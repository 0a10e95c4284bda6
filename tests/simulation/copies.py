"""Copies of files as cp(1) makes them, which the server may make."""

import errno
from collections.abc import Callable, Collection
from functools import partial
from typing import Protocol

from simulation.context import Handle, MountContext
from support.harness import get

WHOLE = 1 << 40


class Call(Protocol):
    """Makes a system call, and knows which of its errors are right."""

    def __call__(self, call: Callable[[], object], right: Collection[int] = (), /) -> object: ...


class FileCopy:
    """Copies one file to another, which is empty."""

    def __init__(self, context: MountContext, call: Call, put: Callable[[Handle, int, bytes], None]) -> None:
        self._context = context
        self._call = call
        self._put = put

    def run(self, source: Handle, target: Handle) -> None:
        """Copy all bytes; the kernel reads and writes what the mount does not copy."""
        body, at = source.node.now, 0
        while at < len(body):
            copied = self._by_server(source, target, at)
            if not copied:
                data = self._call(partial(get, self._context.filesystem, source.number, at))
                assert isinstance(data, bytes)
                if not data:
                    return
                self._put(target, at, data)
                copied = len(data)
            at += copied

    def _by_server(self, source: Handle, target: Handle, at: int) -> int:
        context, node, body = self._context, target.node, source.node.now
        context.model.wrote(node, body)
        context.attributes.written(node)
        copy = partial(context.filesystem.copy_file_range, source.number, at, target.number, at, WHOLE, 0)
        try:
            copied = self._call(copy, {errno.EOPNOTSUPP})
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            return 0
        assert isinstance(copied, int)
        context.scheduler.record(f"the server copied {copied} bytes")
        node.now = body[: at + copied]
        context.model.wrote(node, node.now)
        return copied
