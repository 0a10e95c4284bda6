"""How many bytes a second a mount may send and receive, by the time of day and the day of the week.

The option `bwlimit` is read here, too: one rate, one for each direction, or a timetable of them.
"""

import math
import re
import time
from bisect import bisect_right
from collections.abc import Callable

from msgspec import Struct

DAY = 24 * 60
"""Minutes of a day."""


class Rates(Struct, frozen=True):
    """Bytes a second that may be sent and received, infinity without a limit."""

    sent: float = math.inf
    received: float = math.inf


class Timetable(Struct, frozen=True):
    """Rates, each from a minute of the week on; Monday begins at 0. `text` is how the user has written it.

    The last rates of a week count until the first ones of the next. The clock on the wall decides: an hour
    that summer time repeats has its rates twice, and a start that it skips counts from the next minute on.
    """

    text: str
    starts: tuple[int, ...] = (0,)
    rates: tuple[Rates, ...] = (Rates(),)

    def at(self, unix_time: float) -> Rates:
        """Return the rates at a time in Unix seconds, in the local time zone."""
        if len(self.rates) == 1:
            return self.rates[0]
        local = time.localtime(unix_time)
        minute = local.tm_wday * DAY + local.tm_hour * 60 + local.tm_min
        # Before the first start of the week the index is -1: the last rates of the week before.
        return self.rates[bisect_right(self.starts, minute) - 1]


NO_LIMIT = Timetable("off")


LEAST = 32 * 1024
"""Bytes a second. Servers break off a body of which less than about 64 KiB a minute come, and each of the
parallel ones gets a part."""

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_TIME = re.compile(r"(?:([a-z]{3})-)?(\d{1,2}):(\d{2})", re.IGNORECASE)

_ENDS_IN_TIME = re.compile(rf"(?:^|[\s\"]){_TIME.pattern}$", re.IGNORECASE)

EXPECTED = (
    "off, a rate such as 2M or 2M:10M (32K a second or more), or a timetable such as '08:00,2M:off 19:00,off'"
)


def parse_bandwidth(text: str, parse_size: Callable[[str], int]) -> Timetable:
    """Read the option's value; raise `ValueError` with what is expected."""
    text = " ".join(text.strip().strip('"').split())
    if "," not in text:
        rates = _rates(text, parse_size)
        return Timetable(text, rates=(rates,)) if rates != Rates() else NO_LIMIT
    found: dict[int, Rates] = {}
    for entry in text.split(" "):
        start, _, rate = entry.partition(",")
        rates = _rates(rate, parse_size)
        for minute in _minutes(start):
            if minute in found:
                raise ValueError(f"a timetable with one rate for each time, and {start!r} has two")
            found[minute] = rates
    starts = sorted(found)
    return Timetable(text, tuple(starts), tuple(found[start] for start in starts))


def goes_on(text: str) -> bool:
    """Return whether a value that was cut at a comma continues behind it: its last word is a time."""
    return _ENDS_IN_TIME.search(text) is not None


def _minutes(start: str) -> list[int]:
    """Return the minutes of the week that a time such as `08:00` or `Mon-08:00` means."""
    match = _TIME.fullmatch(start)
    if match is None or int(match[2]) > 23 or int(match[3]) > 59:
        raise ValueError(f"{EXPECTED}; {start!r} is no time")
    if match[1] and match[1].lower() not in _DAYS:
        raise ValueError(f"Mon, Tue, Wed, Thu, Fri, Sat or Sun before a time, not {match[1]!r}")
    days = [_DAYS.index(match[1].lower())] if match[1] else range(len(_DAYS))
    return [day * DAY + int(match[2]) * 60 + int(match[3]) for day in days]


def _rates(text: str, parse_size: Callable[[str], int]) -> Rates:
    sent, colon, received = text.partition(":")
    return Rates(_rate(sent, parse_size), _rate(received if colon else sent, parse_size))


def _rate(text: str, parse_size: Callable[[str], int]) -> float:
    if text.lower() == "off":
        return math.inf
    try:
        rate = parse_size(text)
    except ValueError:
        raise ValueError(EXPECTED) from None
    if rate < LEAST:
        raise ValueError(f"{EXPECTED}; {text!r} is too slow for a server to wait")
    return rate
