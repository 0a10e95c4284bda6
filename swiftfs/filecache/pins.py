"""Which objects' copies stay in the cache: the pins of this mount, by the objects' names."""

import json
import logging
import os
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from swiftfs.config.cache_dir import new_file
from swiftfs.objects import ObjectName

log = logging.getLogger(__name__)

MOST_PINS = 10_000
"""How many paths may be pinned: each folder counts once."""


class Pin(Struct, frozen=True, order=True):
    """An object, or everything below a folder: then `key` ends with `/`, or is empty for a whole container.

    An empty `container` is the whole account.
    """

    container: str
    key: str

    @property
    def is_tree(self) -> bool:
        """Whether it is a folder's."""
        return not self.key or self.key.endswith("/")


class Pins:
    """The pins of a cache folder, in the file `path`. Not locked: the file cache's lock guards it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pins: set[Pin] = set()
        with suppress(OSError, ValueError, TypeError):  # without the file nothing is pinned
            self._pins = {Pin(container, key) for container, key in json.loads(path.read_text())}

    def all(self) -> list[Pin]:
        """Return the pins in their order."""
        return sorted(self._pins)

    def has(self, pin: Pin) -> bool:
        """Return whether exactly this was pinned."""
        return pin in self._pins

    def covers(self, name: ObjectName) -> bool:
        """Return whether an object is pinned, itself or by a folder above it."""
        if not self._pins:
            return False
        above = [name.key[: place + 1] for place, letter in enumerate(name.key) if letter == "/"]
        found = (Pin(name.container, key) for key in ("", *above, name.key))
        return Pin("", "") in self._pins or any(pin in self._pins for pin in found)

    def add(self, pin: Pin) -> bool:
        """Add a pin and write the file; return False if there are too many. Raise `OSError`."""
        if pin not in self._pins and len(self._pins) >= MOST_PINS:
            return False
        self._write(self._pins | {pin})
        return True

    def remove(self, pin: Pin) -> None:
        """Remove a pin, of a folder also those of what is below it, and write the file; raise `OSError`."""
        self._write({one for one in self._pins if one != pin and not _is_below(one, pin)})

    def _write(self, pins: set[Pin]) -> None:
        new = self._path.with_name(f"{self._path.name}.new")
        with os.fdopen(new_file(new), "w") as file:
            json.dump([(one.container, one.key) for one in sorted(pins)], file)
        new.replace(self._path)
        self._pins = pins


def _is_below(one: Pin, tree: Pin) -> bool:
    if not tree.is_tree:
        return False
    return not tree.container or (one.container == tree.container and one.key.startswith(tree.key))
