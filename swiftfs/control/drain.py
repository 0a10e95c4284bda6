"""What a mount still has to store after it was unmounted, told through a file in its cache folder."""

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

from swiftfs.config.cache_dir import DRAIN

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Drain:
    """How many files and deletions wait, and why the rest could not be stored, empty while all goes well.

    While a mount is `held`, the process goes on: it was unmounted, and is still mounted elsewhere.
    """

    waiting: int
    failure: str = ""
    held: bool = False

    def write(self, cache: Path) -> None:
        """Write it into `cache`; a failure of the disk is logged and ignored."""
        unfinished = _file(cache).with_suffix(".new")
        try:
            unfinished.write_text(json.dumps(asdict(self)))
            unfinished.rename(_file(cache))
        except OSError as error:
            log.info("%s: %s", unfinished, error)

    @classmethod
    def read(cls, cache: Path) -> "Drain":
        """Return what was told last; nothing waits where nothing was told."""
        try:
            return cls(**json.loads(_file(cache).read_text()))
        except (OSError, ValueError, TypeError):
            return cls(0)


def _file(cache: Path) -> Path:
    return cache / DRAIN
