"""Where swiftfs is mounted: in this mount namespace, and in those of other processes."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from swiftfs.paths import SCHEME

PROCESSES = Path("/proc")
OWN_TABLE = Path("/proc/self/mountinfo")
TYPE = b"fuse.swiftfs"

_USER = re.compile(rb"(?:^|,)user_id=(\d+)")
_OCTAL = re.compile(rb"\\([0-7]{3})")


class MountEntry(Struct, frozen=True):
    """A swiftfs in a table of mounts: its device as in `st_dev`, its place, its source, its user."""

    device: int
    mountpoint: Path
    source: str = ""
    user: int | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MountEntry):
            return False
        return (self.device, self.mountpoint) == (other.device, other.mountpoint)

    def __hash__(self) -> int:
        return hash((self.device, self.mountpoint))


class Holder(Struct, frozen=True):
    """A process whose mount namespace still has a mount, and where."""

    pid: int
    command: str
    mountpoint: Path

    def __str__(self) -> str:
        return f"{self.mountpoint} in the mount namespace of process {self.pid} ({self.command})"

    @property
    def reachable(self) -> Path:
        """The mount by a path into the namespace."""
        return PROCESSES / str(self.pid) / "root" / str(self.mountpoint).lstrip("/")


def mount_entries(table: Path) -> Iterator[MountEntry]:
    """Yield the swiftfs mounts of a `mountinfo` (proc_pid_mountinfo(5)); raise `OSError`."""
    for line in table.read_bytes().split(b"\n"):
        before, _, after = line.partition(b" - ")
        kind, source, options = (*after.split(b" "), b"", b"")[:3]
        if kind == TYPE:
            fields = before.split(b" ")
            major, minor = fields[2].split(b":")
            place = Path(_plain(fields[4]))
            user = _USER.search(options)
            yield MountEntry(
                os.makedev(int(major), int(minor)),
                place,
                _plain(source).removeprefix(SCHEME),
                int(user[1]) if user else None,
            )


def _plain(field: bytes) -> str:
    """Return a field: the kernel writes blanks, tabs, newlines and backslashes as octal numbers."""
    return os.fsdecode(_OCTAL.sub(lambda match: bytes([int(match[1], 8)]), field))


def mounted_on(folder: Path) -> MountEntry | None:
    """Return the swiftfs that is mounted on the folder, the uppermost one; None without one."""
    place = folder.resolve()
    found = [entry for entry in mount_entries(OWN_TABLE) if entry.mountpoint == place]
    return found[-1] if found else None


def find_holders(device: int) -> list[Holder]:
    """Return a process of each mount namespace with the device mounted, if this user may see it."""
    found: dict[str, Holder] = {}
    for folder in sorted(PROCESSES.glob("[0-9]*"), key=lambda path: int(path.name)):
        with suppress(OSError):
            namespace = str((folder / "ns" / "mnt").readlink())
            # One process of each namespace is enough: there may be thousands.
            if namespace in found:
                continue
            for entry in mount_entries(folder / "mountinfo"):
                if entry.device == device:
                    command = (folder / "comm").read_text().strip()
                    found[namespace] = Holder(int(folder.name), command, entry.mountpoint)
                    break
    return list(found.values())


def fusermount() -> str | None:
    """Return the program by which users unmount, also if PATH lacks its usual places, as in a service's."""
    # Not the current folder, which an empty entry of PATH stands for.
    places = os.pathsep.join([*filter(None, os.environ.get("PATH", "").split(os.pathsep)), os.defpath])
    return shutil.which("fusermount", path=places) or shutil.which("fusermount3", path=places)
