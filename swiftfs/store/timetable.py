"""How many bytes a second a mount may send and receive, by the time of day and the day of the week."""

import math
import time
from bisect import bisect_right

from swiftfs.lazy_dataclass import dataclass

DAY = 24 * 60
"""Minutes of a day."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Bytes a second that may be sent and received, infinity without a limit."""

    sent: float = math.inf
    received: float = math.inf


@dataclass(frozen=True, slots=True)
class Timetable:
    """Rates, each from a minute of the week on; Monday begins at 0. `text` is how the user has written it.

    The last rates of a week count until the first ones of the next. The clock on the wall decides: an hour
    that summer time repeats gets the rates of its times twice, and times that it leaves out take effect at
    the next minute that there is.
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
