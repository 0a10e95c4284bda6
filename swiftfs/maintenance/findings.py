"""What a check finds: a difference, something that it cannot tell, or a note."""

from collections.abc import Callable
from enum import Enum, auto

from msgspec import Struct, to_builtins


class Weight(Enum):
    """What a finding means for the result: a difference, no result, or nothing."""

    DIFFERENCE = auto()
    UNKNOWN = auto()
    NOTE = auto()


KINDS = {
    "only_here": Weight.DIFFERENCE,
    "only_there": Weight.DIFFERENCE,
    "type": Weight.DIFFERENCE,
    "size": Weight.DIFFERENCE,
    "bytes": Weight.DIFFERENCE,
    "time": Weight.DIFFERENCE,
    "mode": Weight.DIFFERENCE,
    "missing": Weight.DIFFERENCE,
    "segment": Weight.DIFFERENCE,
    "unknown": Weight.UNKNOWN,
    "pending": Weight.UNKNOWN,
    "name": Weight.NOTE,
    "orphans": Weight.NOTE,
    "expires": Weight.NOTE,
}
"""The kinds of findings. Programs read them: a word never changes its meaning."""


class Finding(Struct, frozen=True):
    """A sentence about `path`, which is relative to what is checked; `kind` is one of `KINDS`."""

    kind: str
    path: str
    text: str

    @property
    def weight(self) -> Weight:
        """What it means for the result."""
        return KINDS[self.kind]

    def to_json(self) -> dict[str, str]:
        """Return the fields that are printed; a path that is not UTF-8 has its bytes as `\\xNN`."""
        path = self.path.encode(errors="surrogateescape").decode(errors="backslashreplace")
        return {**to_builtins(self), "path": path}


Report = Callable[[Finding], None]


class Tally(Struct):
    """The numbers of what was checked; sizes in bytes. `hashed` was read here, `downloaded` from Swift."""

    files: int = 0
    folders: int = 0
    links: int = 0
    bytes: int = 0
    large: int = 0
    segments: int = 0
    expiring: int = 0
    hashed: int = 0
    downloaded: int = 0
    differences: int = 0
    unknown: int = 0
    notes: int = 0

    def add(self, other: "Tally") -> None:
        """Add the numbers of another part of what is checked."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def count(self, finding: Finding) -> None:
        """Count a finding."""
        match finding.weight:
            case Weight.DIFFERENCE:
                self.differences += 1
            case Weight.UNKNOWN:
                self.unknown += 1
            case Weight.NOTE:
                self.notes += 1
