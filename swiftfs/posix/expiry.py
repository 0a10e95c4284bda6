"""When Swift deletes a file: the xattr `swift.delete_at`, and the rules of the option `expire`."""

import errno
import re
from collections.abc import Sequence
from datetime import datetime, timezone

from swiftfs.concurrency import unix_time
from swiftfs.config.options import parse_age, parse_date
from swiftfs.errors import os_error
from swiftfs.paths import is_below

LATEST = 2**33
"""Seconds since the epoch, in the year 2242; Swift's own limit is ten digits."""

_SECONDS = re.compile(r"\d{1,10}")


class ExpiryRules:
    """Says when new files are deleted; `rules` are as in `config.options.Rules`."""

    def __init__(self, rules: Sequence[tuple[str, int]]) -> None:
        # The longest folder first: it wins.
        self._rules = [(f"/{folder}", age) for folder, age in sorted(rules, key=lambda rule: -len(rule[0]))]

    def moment(self, path: str) -> str:
        """Return the X-Delete-At of a file that is stored at `path` now, empty for never."""
        for folder, age in self._rules:
            if path != folder and is_below(path, folder):
                return str(int(unix_time()) + age)
        return ""


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
