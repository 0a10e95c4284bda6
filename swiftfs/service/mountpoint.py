"""What is mounted where. The folder is checked first of all, and made if that is asked for."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from swiftfs.config.cache_dir import missing_folders, remove_empty
from swiftfs.config.options import Options
from swiftfs.control.mount_table import mounted_on
from swiftfs.control.unmount import died
from swiftfs.errors import ConfigurationError, mount_point_error
from swiftfs.paths import Source


class MountRequest(Struct, frozen=True):
    """The arguments of `swiftfs mount`."""

    source: Source
    mountpoint: Path
    options: Options
    cache_dir: Path | None = None
    is_fixed: bool = False
    """Whether a service or fstab names the mount point."""
    refused: bool = False
    """Whether it is read-only because Swift refuses changes."""

    def as_refused(self) -> "MountRequest":
        """Return the request if it is read-only, else the same because Swift refuses changes."""
        if self.options.ro:
            return self
        return replace(self, options=replace(self.options, ro=True), refused=True)


def check_mountpoint(mountpoint: Path, *, is_fixed: bool = False) -> None:
    """Raise `ConfigurationError` unless the folder `mountpoint` can be mounted on.

    A dead swiftfs may be mounted there: it stays, visibly broken, until the next mount replaces it. If the
    mount point `is_fixed`, by a service or fstab, nobody can choose another one.
    """
    try:
        if not died(mountpoint):
            _check_unused(mountpoint, is_fixed=is_fixed)
    except OSError as error:
        raise mount_point_error(mountpoint, error) from None
    if not Path("/dev/fuse").exists():
        raise ConfigurationError("/dev/fuse is missing: load the kernel's fuse module (modprobe fuse)")


def _check_unused(mountpoint: Path, *, is_fixed: bool) -> None:
    # First of all: a mount may be empty, and root could mount a second one over it.
    if there := mounted_on(mountpoint):
        raise ConfigurationError(f"mount point {mountpoint}: {there.source} is mounted there already")
    if any(mountpoint.iterdir()):
        advice = "move away what is in it" if is_fixed else "choose an empty folder"
        raise ConfigurationError(f"mount point {mountpoint} is not empty: {advice}")


@contextlib.contextmanager
def made_if_missing(mountpoint: Path) -> Iterator[None]:
    """Make a missing folder and those above, removed if the block fails; raise `ConfigurationError`."""
    made = [] if os.path.lexists(mountpoint) else missing_folders(mountpoint)
    try:
        if made:
            mountpoint.mkdir(parents=True)
    except OSError as error:
        raise mount_point_error(mountpoint, error) from None
    try:
        yield
    except BaseException:
        remove_empty(made)
        raise
