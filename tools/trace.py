"""The modules that one call passes through, in order, with a store in memory: `./dev trace CALL`."""

import os
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import swiftfs
from support.harness import ME, harness, put
from support.harness import write as write_file
from support.memory_store import MemoryStore
from swiftfs.posix.filesystem import FileSystem

PACKAGE = f"{Path(swiftfs.__file__).parent}{os.sep}"
OLD, NEW = "/old", "/new"


def _lookup(filesystem: FileSystem) -> Callable[[], object]:
    return lambda: filesystem.getattr(OLD)


def _write(filesystem: FileSystem) -> Callable[[], object]:
    return lambda: write_file(filesystem, NEW, b"bytes")


def _rename(filesystem: FileSystem) -> Callable[[], object]:
    return lambda: filesystem.rename(OLD, NEW)


def _fsync(filesystem: FileSystem) -> Callable[[], object]:
    def call() -> None:
        handle = filesystem.create(NEW, 0o644, os.O_WRONLY, ME)
        filesystem.fsync(handle, False)
        filesystem.release(handle)

    return call


def _upload(filesystem: FileSystem) -> Callable[[], object]:
    handle = filesystem.create(NEW, 0o644, os.O_WRONLY, ME)
    put(filesystem, handle, 0, b"bytes")

    def call() -> None:
        filesystem.flush(handle)
        filesystem.release(handle)

    return call


WORKERS = ("listing_", "operation_")
"""How the names of the threads begin that do what a call waits for: they list its folder, and upload its
file. What other threads do meanwhile (the scheduler, the syncs) is no part of the call."""

CALLS: dict[str, Callable[[FileSystem], Callable[[], object]]] = {
    "lookup": _lookup,
    "write": _write,
    "rename": _rename,
    "fsync": _fsync,
    "upload": _upload,
}
"""Each makes what the traced call needs, and returns that. A write is create, write, close and release; its
upload follows later. An fsync waits for it. An upload goes from the close of a new file to its PUT."""


def trace(name: str) -> list[str]:
    """Return the modules of swiftfs that a call passes through, in its thread and the `WORKERS`, in order."""
    passed: dict[str, None] = {}
    running = threading.Event()
    caller = threading.get_ident()

    def is_followed() -> bool:
        return threading.get_ident() == caller or threading.current_thread().name.startswith(WORKERS)

    def note(frame: FrameType, event: str, _argument: object) -> None:
        file = frame.f_code.co_filename
        if running.is_set() and event == "call" and file.startswith(PACKAGE) and is_followed():
            passed.setdefault(file.removeprefix(PACKAGE).removesuffix(".py").replace(os.sep, "."))

    def begin_request(method: str, _subject: str) -> None:
        if name == "upload" and method == "put":
            running.clear()

    store = MemoryStore("box")
    # Threads take the profile function when they start, so it is set before the mount makes them.
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        with tempfile.TemporaryDirectory() as folder:
            with harness(store, Path(folder)) as filesystem:
                write_file(filesystem, OLD, b"bytes")
            with harness(store, Path(folder), "settle=1000,drain=0" if name == "write" else "") as filesystem:
                call = CALLS[name](filesystem)
                store.hook = begin_request
                running.set()
                call()
                running.clear()
                if name == "write":
                    filesystem.unlink(NEW)  # so that nothing is pending at the end
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return list(passed)


def main() -> None:
    """Print the modules of the given call, a line each, and their number."""
    if len(sys.argv) != 2 or sys.argv[1] not in CALLS:
        sys.exit(f"usage: ./dev trace {'|'.join(CALLS)}")
    modules = trace(sys.argv[1])
    print(*modules, f"{len(modules)} modules", sep="\n")


if __name__ == "__main__":
    main()
