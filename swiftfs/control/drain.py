"""The file in the cache folder that says how much a mount still has to store after it was unmounted."""

import json
import logging
from dataclasses import asdict
from pathlib import Path

from swiftfs.config.cache_dir import DRAIN, write_whole
from swiftfs.lazy_dataclass import dataclass

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Drain:
    """How many files and deletions are pending, and why the rest could not be stored, empty without failure.

    A mount that is `held` was unmounted but is still mounted elsewhere: the process continues.
    """

    waiting: int
    failure: str = ""
    held: bool = False

    def write(self, cache: Path) -> None:
        """Write it into `cache`; a failure of the disk is logged and ignored."""
        try:
            write_whole(_file(cache), json.dumps(asdict(self)))
        except OSError as error:
            log.info("%s: %s", _file(cache), error)

    @classmethod
    def read(cls, cache: Path) -> "Drain":
        """Return the last state written; without one, nothing is pending."""
        try:
            return cls(**json.loads(_file(cache).read_text()))
        except (OSError, ValueError, TypeError):
            return cls(0)


def _file(cache: Path) -> Path:
    return cache / DRAIN
