"""A mount of release 0.1.0 that is killed, and how what it leaves is written down; `make.py` uses it."""

import hashlib
import json
import os
import signal
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bench_filesystem import ME, put
from memory_store import MemoryStore
from swiftfs.filesystem import FileSystem
from swiftfs.model import Manifest, ObjectInfo, ObjectName

from swiftfs.store.protocol import Body, Headers


class Store(MemoryStore):
    """A store whose process may die just after it has carried a request out."""

    dies_after: Callable[[str, str], bool] = staticmethod(lambda _method, _key: False)
    die: Callable[[], None]

    def put(self, name: ObjectName, body: Body, headers: Headers, *, if_absent: bool = False) -> ObjectInfo:
        info = super().put(name, body, headers, if_absent=if_absent)
        self._maybe_die("put", name.key)
        return info

    def put_manifest(self, name: ObjectName, manifest: Manifest, headers: Headers) -> ObjectInfo:
        info = super().put_manifest(name, manifest, headers)
        self._maybe_die("put_manifest", name.key)
        return info

    def _maybe_die(self, method: str, key: str) -> None:
        if self.dies_after(method, key):
            self.die()


class Scene:
    """A mount that is to die; `files` are the bytes that it shows, by path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store("box", "other")
        self.files: dict[str, bytes] = {}
        self.filesystem: FileSystem
        self.tree: dict[str, object] | None = None
        self._dying = threading.Lock()

    def write(self, path: str, content: bytes, flags: int = os.O_TRUNC) -> None:
        handle = self.filesystem.create(path, 0o640, os.O_WRONLY | flags, ME)
        if content:
            put(self.filesystem, handle, 0, content)
        self.filesystem.flush(handle)
        self.filesystem.release(handle)
        self.files[path] = content

    def change(self, path: str, offset: int, content: bytes) -> None:
        handle = self.filesystem.open(path, os.O_RDWR)
        put(self.filesystem, handle, offset, content)
        self.filesystem.flush(handle)
        self.filesystem.release(handle)
        old = self.files[path].ljust(offset, b"\0")
        self.files[path] = old[:offset] + content + old[offset + len(content) :]

    def truncate(self, path: str, size: int) -> None:
        self.filesystem.truncate(path, size)
        self.files[path] = self.files[path][:size].ljust(size, b"\0")

    def rename(self, old: str, new: str) -> None:
        self.filesystem.rename(old, new)
        self.files = {_moved(path, old, new): content for path, content in self._without(new).items()}

    def unlink(self, path: str) -> None:
        self.filesystem.unlink(path)
        del self.files[path]

    def rename_until(self, old: str, new: str, method: str, number: int) -> None:
        """Rename until the request `number` of a kind is to be sent, and die there."""
        tree = look(self)
        gone = [path for path in tree if path == new or path.startswith(f"{new}/")]
        kept = {path: one for path, one in tree.items() if path not in gone}
        self.tree = {_moved(path, old, new): one for path, one in kept.items()}
        self.die_at(method, number)
        self.filesystem.rename(old, new)

    def die_at(self, method: str, number: int = 1) -> None:
        """Die when the request `number` of a kind is to be sent."""
        seen = 0

        def hook(called: str, _subject: str) -> None:
            nonlocal seen
            seen += called == method
            if called == method and seen == number:
                self.die()

        self.store.hook = hook

    def flush(self, *, until_tried: bool = True) -> None:
        """Begin to store everything; return when all was tried once."""
        self.filesystem.rooms.journal.hasten()
        while until_tried and any(not one.attempts for one in self.filesystem.waiting()):
            time.sleep(0.01)

    def foreign(self, key: str, content: bytes, headers: Headers | None = None) -> None:
        """Store an object as another client does."""
        given = headers or Headers("text/plain")
        headers = replace(given, metadata={**given.metadata, "mtime": "1600000000.5"})
        self.store.put(ObjectName("box", key), content, headers)
        self.files[f"/{key}"] = content

    def die(self) -> None:
        """Write down what there is, and kill this process."""
        with self._dying:
            self.store.hook = None
            tree = self.tree if self.tree is not None else look(self)
            (self.folder / "tree.json").write_text(json.dumps(tree, indent=1, sort_keys=True))
            self.filesystem.rooms.journal._log.sync()
            self.store._lock.acquire()
            (self.folder / "store.json").write_text(json.dumps(objects(self.store, self.folder), indent=1))
            os.kill(os.getpid(), signal.SIGKILL)

    def _without(self, path: str) -> dict[str, bytes]:
        return {one: content for one, content in self.files.items() if one != path}


def _moved(path: str, old: str, new: str) -> str:
    return new + path.removeprefix(old) if path == old or path.startswith(f"{old}/") else path


def look(scene: Scene, folder: str = "/") -> dict[str, object]:
    """Return what the mount shows below a folder: mode, time, size, MD5 or target, extended attributes."""
    found: dict[str, object] = {}
    filesystem = scene.filesystem
    handle = filesystem.opendir(folder)
    names = sorted(name for name, _ in filesystem.readdir(handle) if name not in (".", ".."))
    filesystem.releasedir(handle)
    for name in names:
        path = f"{folder.rstrip('/')}/{name}"
        seen = filesystem.getattr(path)
        one: dict[str, object] = {"mode": seen.mode}
        if stat.S_ISLNK(seen.mode):
            one["target"] = filesystem.readlink(path)
        if stat.S_ISREG(seen.mode):
            one |= {"size": seen.size, "md5": hashlib.md5(scene.files[path]).hexdigest()}
            assert seen.size == len(scene.files[path]), path
        if not stat.S_ISDIR(seen.mode):
            one["mtime_ns"] = seen.mtime_ns
            one["xattrs"] = {
                key: filesystem.getxattr(path, key).decode() for key in filesystem.listxattr(path)
            }
        found[path] = one
        if stat.S_ISDIR(seen.mode):
            found |= look(scene, path)
    return found


def objects(store: MemoryStore, folder: Path) -> list[dict[str, object]]:
    """Return all objects, manifests last; their bytes are written into files."""
    found: list[dict[str, object]] = []
    (folder / "bodies").mkdir()
    for container in store.list_containers().subdirs:
        for row in store.list_page(container).rows:
            name = ObjectName(container, row.key)
            info = store.head(name)
            one: dict[str, object] = {
                "name": [container, row.key],
                "headers": [info.content_type, dict(info.metadata), dict(info.kept)],
            }
            if info.is_slo:
                segments = store.manifest(name).segments
                one["segments"] = [
                    [[part.name.container, part.name.key], part.etag, part.size, part.first, part.length]
                    for part in segments
                ]
            else:
                one["body"] = f"bodies/{len(found)}"
                (folder / f"bodies/{len(found)}").write_bytes(store._object(name).body)
            found.append(one)
    return sorted(found, key=lambda one: "segments" in one)
