"""What a mount tells of itself: its log lines, its metrics, and the files of its control folder."""

import logging
import os
import re
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cachetools import LRUCache

from swiftfs.concurrency import monotonic
from swiftfs.config.options import Options
from swiftfs.config.prices import Prices
from swiftfs.errors import printable

if TYPE_CHECKING:
    from swiftfs.control.collector import StatusCollector


class Monitoring:
    """Made before the mount: raises `ConfigurationError` if metrics or prices cannot be used."""

    def __init__(self, options: Options) -> None:
        self.prices = Prices.read(Path(options.prices)) if options.prices else None
        self._exporter = None
        if options.metrics:
            from swiftfs.control.metrics import open_exporter  # noqa: PLC0415  its library takes time to load

            self._exporter = open_exporter(options.metrics)
        self._recent = Recent()
        logging.getLogger().addHandler(self._recent)

    def begin(self, collector: "StatusCollector") -> None:
        """Begin to serve or write metrics; after a fork, if there is one."""
        if self._exporter is not None:
            self._exporter.start(collector.state)

    def files(self, collector: "StatusCollector") -> Mapping[str, Callable[[], bytes]]:
        """Return the function that renders each file of the control folder."""
        return {
            "status.json": lambda: collector.state().to_json().encode(),
            "metrics.prom": lambda: _metrics(collector),
            "log": lambda: self._recent.text().encode("utf-8", "backslashreplace"),
        }

    def close(self) -> None:
        """Stop; a file gets the last metrics."""
        if self._exporter is not None:
            self._exporter.close()
        logging.getLogger().removeHandler(self._recent)


def _metrics(collector: "StatusCollector") -> bytes:
    from swiftfs.control.metrics import text_of  # noqa: PLC0415  its library takes time to load

    return text_of(collector.state)


QUIET_SECONDS = 60.0
"""How long repetitions of a message are counted instead of logged."""

REMEMBERED = 1000
"""The number of messages that are remembered."""

RECENT_LINES = 1000
RECENT_CHARACTERS = 1000
"""How much of the log `Recent` keeps at most."""

TOLD = {"told": True}
"""The `extra` of a record that a user who mounts in the background sees, although it is no warning."""

HEADING = {"heading": True}
"""The `extra` of the record that `Recent` keeps as its first."""

_TRANSACTION = re.compile(r" \(tx[\w-]+\)|; again in [\d.]+ s")
"""What differs between two lines about the same failure: Swift's request id, and the pause before a retry."""

_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))


def reads_journal(descriptor: int) -> bool:
    """Return whether systemd's journal reads the stream: `JOURNAL_STREAM` names it (systemd.exec(5))."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class LineFormatter(logging.Formatter):
    """Writes a record in one line, and below it the lines of a traceback, whatever the names in them are.

    A file's name may contain a newline, which would begin a false record, or a terminal's control sequences.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's name
        """Return the line of a record."""
        record.message = printable(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802  logging's name
        """Return the lines of a traceback."""
        # An exception's text may have several lines, too: indented, none looks like a record.
        return "\n".join(f"  {printable(line)}" for line in super().formatException(ei).split("\n"))


class JournalFormatter(LineFormatter):
    """Writes `<priority>message`, sd-daemon(3), each line of a traceback too."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record with its priority before each line."""
        priority = next((number for level, number in _PRIORITIES if record.levelno >= level), 7)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())


class Told(logging.Filter):
    """Lets warnings and records marked `TOLD` through, for the user who mounts in the background."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is shown."""
        return record.levelno >= logging.WARNING or getattr(record, "told", False)


class Recent(logging.Handler):
    """Keeps the last lines of the log in memory, for the file `.swiftfs/log`."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[str] = deque(maxlen=RECENT_LINES)
        self._heading = ""
        self.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(message)s"))
        self.addFilter(Repetition())

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the record's lines, each cut to `RECENT_CHARACTERS`; the heading stays."""
        if getattr(record, "heading", False):
            self._heading = f"{self.format(record)}\n"
            return
        self._lines.extend(line[:RECENT_CHARACTERS] for line in self.format(record).splitlines())

    def text(self) -> str:
        """Return the lines, the last one last."""
        with self.lock or nullcontext():
            return self._heading + "".join(f"{line}\n" for line in self._lines)


class Repetition(logging.Filter):
    """Lets a message through once a minute; the next time with the number of suppressed repetitions.

    Messages that differ only in request id or pause count as equal. Debug messages and records with the
    attribute `always` all pass.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: LRUCache[tuple[int, str], tuple[float, int]] = LRUCache(REMEMBERED)

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is logged; called by one handler, whose lock it must not need."""
        if record.levelno < logging.INFO or getattr(record, "always", False):
            return True
        message = record.getMessage()
        key = (record.levelno, _TRANSACTION.sub("", message))
        since, count = self._seen.get(key, (-QUIET_SECONDS, 0))
        now = monotonic()
        if now - since < QUIET_SECONDS:
            # An outage repeats the same line for every request.
            self._seen[key] = (since, count + 1)
            return False
        self._seen[key] = (now, 0)
        if count:
            record.msg, record.args = f"{message} ({count} more like it in {now - since:.0f} s)", ()
        return True
