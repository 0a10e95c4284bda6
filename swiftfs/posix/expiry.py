"""When Swift deletes a file: the xattr `swift.delete_at`, and the rules of the option `expire`."""

import errno
import re
from datetime import datetime, timezone

from swiftfs.concurrency import unix_time
from swiftfs.config.options import Rules, parse_age, parse_date
from swiftfs.errors import os_error
from swiftfs.paths import is_below

LATEST = 2**33
"""Seconds since the epoch, in the year 2242; Swift's own limit is ten digits."""

_SECONDS = re.compile(r"\d{1,10}")


def moment_by_rules(path: str, rules: Rules) -> str:
    """Return the X-Delete-At of a file that is stored at `path` now, empty for never."""
    ages = {
        len(folder): age for folder, age in rules if path != f"/{folder}" and is_below(path, f"/{folder}")
    }
    # The rule of the longest folder counts.
    return str(int(unix_time()) + ages[max(ages)]) if ages else ""


def parse_moment(value: bytes, path: str) -> str:
    """Read `+30d`, a date and time (ISO 8601) or Unix seconds as an X-Delete-At; raise `OSError` EINVAL.

    A date without a zone is in the machine's zone. A time that has passed is refused, as Swift does.
    """
    try:
        seconds = _seconds(value.decode("ascii").strip().rstrip("\0"))
    except ValueError:
        raise os_error(errno.EINVAL, path) from None
    if not unix_time() < seconds < LATEST:
        raise os_error(errno.EINVAL, path)
    return str(seconds)


def _seconds(text: str) -> int:
    if text.startswith("+"):
        return int(unix_time()) + parse_age(text[1:])
    if _SECONDS.fullmatch(text):
        return int(text)
    return int(parse_date(text).timestamp())


def show_moment(moment: str) -> bytes:
    """Return an X-Delete-At as a date and time in UTC; unchanged if it is none."""
    if not _SECONDS.fullmatch(moment):
        return moment.encode()
    return datetime.fromtimestamp(int(moment), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ").encode()
