"""What a mount still has to store after it was unmounted, told through a file in its cache folder."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Drain:
    """How many files and deletions wait, and why the rest could not be stored, empty while all goes well."""

    waiting: int
    failure: str = ""

    def write(self, cache: Path) -> None:
        """Tell it to whoever reads `cache`."""
        unfinished = _file(cache).with_suffix(".new")
        unfinished.write_text(json.dumps(asdict(self)))
        unfinished.rename(_file(cache))

    @classmethod
    def read(cls, cache: Path) -> "Drain":
        """Return what was told last; nothing waits where nothing was told."""
        try:
            return cls(**json.loads(_file(cache).read_text()))
        except (OSError, ValueError, TypeError):
            return cls(0)


def _file(cache: Path) -> Path:
    return cache / "drain.json"
