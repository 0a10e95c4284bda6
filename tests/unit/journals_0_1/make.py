"""Make the archives of this folder, with the code of release 0.1.0: see README.md.

Each scenario is a mount of that release that is killed. An archive has its cache folder, `store.json` with
what Swift had at that moment, and `tree.json` with what the mount showed.
"""

import hashlib
import os
import signal
import stat
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import swiftfs.content.index
import swiftfs.journal.log
from bench_filesystem import ME, bench, put
from scene import Scene, look
from swiftfs.model import ObjectName

from swiftfs.errors import AccessDenied, TooLarge, Unavailable
from swiftfs.store.protocol import Headers

MIB = 1024 * 1024
BLOCK = 128 * 1024
BOOT = "the boot of the first release"
MOMENT = 1_700_000_000 * 10**9
LARGE = "segment_size=1M,settle=1000,uploads=1,connections=1,read_ahead=0"
"""Nothing is stored by itself, and copies are made one after the other."""


def data(size: int, seed: int = 0) -> bytes:
    """Return bytes that differ in each 16 KiB, and are small when they are packed."""
    digests = (hashlib.md5(f"{seed} {n}".encode()).digest() for n in range(size // 16384 + 1))
    return b"".join((digest[:1] if digest[0] else b"x") * 16384 for digest in digests)[:size]


def nothing(_scene: Scene) -> None:
    """Swift is empty before."""


def puts(scene: Scene) -> None:
    scene.write("/new", b"new")
    scene.write("/empty", b"")
    scene.write("/stored", b"newer")
    scene.write("/foreign", b"newer than theirs")
    scene.change("/changed", 3, b"changed")
    scene.truncate("/cut", 2)
    scene.write("/d/e/ümlaut 100%25 #?&", b"odd")
    scene.write("/again", b"once")
    scene.write("/again", b"twice")
    scene.filesystem.utimens("/again", None, MOMENT + 123)
    scene.filesystem.setxattr("/again", "user.colour", b"red", 0)
    handle = scene.filesystem.create("/sparse", 0o600, os.O_WRONLY, ME)
    put(scene.filesystem, handle, 5 * BLOCK, b"end")
    scene.filesystem.flush(handle)
    scene.filesystem.release(handle)
    scene.files["/sparse"] = bytes(5 * BLOCK) + b"end"


def before_puts(scene: Scene) -> None:
    for path in ("/stored", "/cut", "/changed"):
        scene.write(path, b"0123456789" * 20000)
    kept = {"Content-Encoding": "gzip", "X-Delete-At": "4102444800"}
    scene.foreign("foreign", b"theirs", Headers("text/html", {"colour": "blue"}, kept))
    scene.filesystem.mkdir("/d", 0o755, ME)
    scene.filesystem.mkdir("/d/e", 0o755, ME)


def before_large(scene: Scene) -> None:
    for number, path in enumerate(["/patched", "/appended", "/cut", "/replaced", "/shrunk", "/grown"]):
        scene.write(path, data(3 * MIB + 1000, number))


def large_with_segments(scene: Scene) -> None:
    """The segments are stored; the manifests are not."""
    scene.write("/large", data(3 * MIB + 5, 20))
    scene.write("/holes", bytes(3 * MIB) + data(MIB, 21))
    scene.write("/replaced", data(2 * MIB, 22))
    refuse(scene, "put_manifest", Unavailable)
    scene.flush()
    scene.tree = look(scene)


def large_evicted(scene: Scene) -> None:
    """The only copy of most bytes is in segments, for the disk was full."""
    for path, content in (("/large", data(3 * MIB + 5, 30)), ("/replaced", data(2 * MIB + 7, 31))):
        handle = scene.filesystem.create(path, 0o600, os.O_WRONLY | os.O_TRUNC, ME)
        for offset in range(0, len(content), BLOCK):
            put(scene.filesystem, handle, offset, content[offset : offset + BLOCK])
        node = scene.filesystem._files.table.handle(handle).node
        node.content.hurry()
        while node.content.uploads.is_busy:
            time.sleep(0.01)
        assert node.content.shed(2**40) == len(content) // MIB * MIB
        scene.filesystem.flush(handle)
        scene.filesystem.release(handle)
        scene.files[path] = content


def large_in_part(scene: Scene) -> None:
    """The process dies when two of four segments are stored."""
    scene.write("/large", data(4 * MIB, 40))
    scene.tree = look(scene)
    scene.die_at("put", 3)
    scene.flush()


def patches(scene: Scene) -> None:
    scene.change("/patched", MIB + 300_000, data(50_000, 50))
    scene.change("/appended", 3 * MIB + 1000, b"appended")
    scene.truncate("/cut", MIB + 17)
    scene.write("/replaced", b"small now")
    scene.truncate("/shrunk", 0)
    scene.truncate("/grown", 4 * MIB)
    scene.filesystem.chmod("/patched", 0o600)


def manifest_without_answer(scene: Scene) -> None:
    """Swift has the new manifest; nobody knows."""
    scene.change("/patched", MIB, data(BLOCK, 60))
    scene.tree = look(scene)
    scene.store.dies_after = lambda method, key: (method, key) == ("put_manifest", "patched")
    scene.flush()


def put_without_answer(scene: Scene) -> None:
    scene.write("/stored", b"newer")
    scene.tree = look(scene)
    scene.store.dies_after = lambda _method, key: key == "stored"
    scene.flush()


def two_closes(scene: Scene) -> None:
    """A file is closed again while it is being stored: two records of one local file."""
    reached = threading.Event()

    def hook(method: str, _subject: str) -> None:
        if method == "put":
            reached.set()
            threading.Event().wait()

    scene.store.hook = hook
    scene.write("/file", b"first" * 5000)
    handle = scene.filesystem.open("/file", os.O_WRONLY)
    scene.flush(until_tried=False)
    assert reached.wait(20)
    put(scene.filesystem, handle, 5, b"second")
    scene.filesystem.flush(handle)
    scene.files["/file"] = b"first" + b"second" + (b"first" * 5000)[11:]


def left_open(scene: Scene) -> None:
    """A large file that is never closed, with stored segments, and one beside it."""
    scene.write("/closed", b"closed")
    scene.tree = look(scene)
    handle = scene.filesystem.create("/open", 0o600, os.O_WRONLY, ME)
    put(scene.filesystem, handle, 0, data(3 * MIB))
    node = scene.filesystem._files.table.handle(handle).node
    node.content.hurry()
    while node.content.uploads.is_busy:
        time.sleep(0.01)


def before_renames(scene: Scene) -> None:
    for path in ("/one", "/two", "/three"):
        scene.write(path, path.encode() * 100)
    scene.write("/large", data(2 * MIB + 5, 70))
    scene.filesystem.mkdir("/d", 0o750, ME)
    scene.filesystem.mkdir("/d/sub", 0o750, ME)
    for name in ("a", "b", "sub/c"):
        scene.write(f"/d/{name}", name.encode() * 100)
    scene.write("/d/large", data(2 * MIB, 71))


def renames(scene: Scene) -> None:
    """Renames of what is not stored yet."""
    scene.write("/draft1", b"renamed")
    scene.filesystem.utimens("/draft1", None, MOMENT)
    scene.rename("/draft1", "/new")
    scene.write("/draft2", b"over one")
    scene.rename("/draft2", "/one")
    scene.write("/two", b"two again")
    scene.rename("/two", "/moved")
    scene.filesystem.symlink("one", "/link1", ME)
    scene.rename("/link1", "/link")


def rename_before_copy(scene: Scene) -> None:
    scene.rename_until("/one", "/new", "copy", 1)


def rename_before_delete(scene: Scene) -> None:
    scene.rename_until("/large", "/new", "delete", 1)


def folder_before_copies(scene: Scene) -> None:
    scene.write("/one", b"waiting beside")
    scene.rename_until("/d", "/e", "copy", 1)


def folder_within_copies(scene: Scene) -> None:
    scene.rename_until("/d", "/e", "copy", 3)


def folder_before_deletions(scene: Scene) -> None:
    scene.rename_until("/d", "/e", "delete_many", 1)


def deletions(scene: Scene) -> None:
    scene.unlink("/one")
    scene.unlink("/large")
    for name in ("a", "b", "large"):
        scene.unlink(f"/d/{name}")
    scene.unlink("/d/sub/c")
    scene.filesystem.rmdir("/d/sub")
    scene.write("/two", b"written and deleted")
    scene.unlink("/two")
    handle = scene.filesystem.open("/three", os.O_RDONLY)
    scene.filesystem.read(handle, 0, 10)
    scene.filesystem.rename("/three", "/.fuse_hidden0000000100000001")
    del scene.files["/three"]
    scene.filesystem.unlink("/.fuse_hidden0000000100000001")


def folders(scene: Scene) -> None:
    filesystem = scene.filesystem
    for path in ("/new", "/new/deep", "/new/deep/er"):
        filesystem.mkdir(path, 0o755, ME)
    scene.write("/new/deep/er/file", b"deep")
    filesystem.chmod("/new", 0o700)
    filesystem.setxattr("/new/deep", "user.a", b"b", 0)
    filesystem.chmod("/d", 0o711)
    filesystem.utimens("/d/sub", None, MOMENT)
    filesystem.chmod("/implied", 0o700)
    scene.unlink("/lonely/file")


def before_folders(scene: Scene) -> None:
    before_renames(scene)
    scene.foreign("implied/file", b"x")
    scene.foreign("lonely/file", b"x")


def attributes(scene: Scene) -> None:
    filesystem = scene.filesystem
    filesystem.chmod("/one", 0o600)
    filesystem.utimens("/two", None, MOMENT + 5)
    filesystem.setxattr("/three", "user.colour", "grün".encode(), 0)
    filesystem.chmod("/large", 0o600)
    filesystem.setxattr("/large", "user.size", b"large", 0)
    filesystem.utimens("/theirs", None, MOMENT)
    filesystem.chmod("/dlo", 0o600)


def before_attributes(scene: Scene) -> None:
    before_renames(scene)
    kept = {"X-Delete-At": "4102444800"}
    scene.foreign("theirs", b"theirs", Headers("text/html", {"colour": "blue"}, kept))
    scene.store.put(ObjectName("other", "parts/1"), b"one", Headers("text/plain"))
    scene.store.put(ObjectName("other", "parts/2"), b"two", Headers("text/plain"))
    scene.foreign("dlo", b"", Headers("text/plain", {}, {"X-Object-Manifest": "other/parts/"}))
    scene.files["/dlo"] = b"onetwo"


def links(scene: Scene) -> None:
    filesystem = scene.filesystem
    filesystem.symlink("one", "/short", ME)
    filesystem.symlink("long/" * 300, "/long", ME)
    filesystem.mknod("/fifo", stat.S_IFIFO | 0o640, 0, ME)
    filesystem.mknod("/socket", stat.S_IFSOCK | 0o640, 0, ME)
    filesystem.mknod("/empty", stat.S_IFREG | 0o640, 0, ME)
    scene.files["/empty"] = b""
    scene.unlink("/two")
    filesystem.symlink("three", "/two", ME)


def parked(scene: Scene) -> None:
    """Swift has refused everything: the records have an `errno`."""
    scene.write("/one", b"refused")
    scene.write("/huge", b"too large")
    scene.filesystem.symlink("one", "/link", ME)
    scene.filesystem.mkdir("/folder", 0o755, ME)
    scene.write("/folder/file", b"in a refused folder")
    scene.write("/segments", data(2 * MIB, 80))

    def hook(method: str, subject: str) -> None:
        if method in ("put", "put_manifest"):
            raise TooLarge("no") if "huge" in subject else AccessDenied("no")

    scene.store.hook = hook
    scene.filesystem.rooms.journal.hasten()
    end = time.monotonic() + 3  # the file in the folder waits for that, and is not tried
    while time.monotonic() < end and sum(one.attempts > 0 for one in scene.filesystem.waiting()) < 5:
        time.sleep(0.01)
    scene.store.hook = None


def refuse(scene: Scene, refused: str, error: type[Exception]) -> None:
    def hook(method: str, _subject: str) -> None:
        if method == refused:
            raise error("no")

    scene.store.hook = hook


SCENES: dict[str, tuple[Callable[[Scene], None], Callable[[Scene], None]]] = {
    "puts": (before_puts, puts),
    "large_with_segments": (before_large, large_with_segments),
    "large_evicted": (before_large, large_evicted),
    "large_in_part": (nothing, large_in_part),
    "patches": (before_large, patches),
    "manifest_without_answer": (before_large, manifest_without_answer),
    "put_without_answer": (before_puts, put_without_answer),
    "two_closes": (nothing, two_closes),
    "left_open": (nothing, left_open),
    "renames": (before_renames, renames),
    "rename_before_copy": (before_renames, rename_before_copy),
    "rename_before_delete": (before_renames, rename_before_delete),
    "folder_before_copies": (before_renames, folder_before_copies),
    "folder_within_copies": (before_renames, folder_within_copies),
    "folder_before_deletions": (before_renames, folder_before_deletions),
    "deletions": (before_renames, deletions),
    "folders": (before_folders, folders),
    "attributes": (before_attributes, attributes),
    "links": (before_renames, links),
    "parked": (before_renames, parked),
}


def run(name: str, folder: Path) -> None:
    """Let a mount make the changes of a scenario, and die."""
    for module in (swiftfs.journal.log, swiftfs.content.index):
        module.boot_id = lambda: BOOT
    before, change = SCENES[name]
    scene = Scene(folder)
    scene.store.die = scene.die
    cache = folder / "cache"
    cache.mkdir()
    (cache / "lock").touch()  # as `swiftfs mount` leaves it
    with bench(scene.store, cache, "segment_size=1M") as scene.filesystem:
        before(scene)
    with bench(scene.store, cache, LARGE) as scene.filesystem:
        change(scene)
        scene.die()


def pack(name: str, folder: Path, target: Path) -> None:
    def anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        info.uid = info.gid = info.mtime = 0
        info.uname = info.gname = ""
        return None if info.name.endswith("journal.reserve") else info

    with tarfile.open(target / f"{name}.tar.bz2", "w:bz2") as archive:
        for path in ("cache", "bodies", "store.json", "tree.json"):
            archive.add(folder / path, path, filter=anonymous)


def main(target: Path) -> None:
    for name in SCENES:
        with tempfile.TemporaryDirectory() as folder:
            ended = subprocess.run([sys.executable, __file__, name, folder], timeout=120, check=False)
            assert ended.returncode == -signal.SIGKILL, (name, ended)
            pack(name, Path(folder), target)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        run(sys.argv[1], Path(sys.argv[2]))
    else:
        main(Path(sys.argv[1]))
