"""Maps the statuses of Swift and the exceptions of requests and urllib3 to `StoreError`s.

A proxy or a captive portal may answer for Swift, with a page and any status. What has a proof of its own is
checked by who reads it as well: a listing has a count, a PUT and the bytes of an object have an ETag, a bulk
delete has a verdict. A DELETE, a POST and a 404 have none but the request id that Swift sends with each.
"""

import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from http.client import BadStatusLine, HTTPException, RemoteDisconnected

import requests
from urllib3.exceptions import ConnectTimeoutError, InvalidHeader, NewConnectionError
from urllib3.exceptions import HTTPError as Urllib3Error
from urllib3.util.retry import Retry

from swiftfs.concurrency import unix_time
from swiftfs.errors import (
    AccessDenied,
    BadName,
    BadRange,
    BadRequest,
    Clash,
    Conflict,
    Corrupt,
    NameTooLong,
    NoSpace,
    NotFound,
    NotSwift,
    QuotaExceeded,
    Sealed,
    StoreError,
    TimedOut,
    Unavailable,
    in_words,
)
from swiftfs.store.request import RETRIEVAL_STATE, BrokenHead, Request

NETWORK_ERRORS = (requests.RequestException, Urllib3Error, HTTPException, OSError)
"""Everything that a request may raise when the network fails."""

STATUSES: Mapping[int, type[StoreError]] = {
    400: BadRequest,
    401: AccessDenied,
    403: AccessDenied,
    404: NotFound,
    408: Unavailable,
    409: Conflict,
    412: BadName,
    413: QuotaExceeded,
    416: BadRange,
    422: Corrupt,
    429: Unavailable,
    498: Unavailable,
    499: Unavailable,
    507: NoSpace,
}
"""498 is Swift's own rate limit; 499 means that the client disconnected."""

REQUEST_IDS = ("x-trans-id", "x-openstack-request-id")
"""Headers of each answer, errors too.

Sources: catch_errors.py in swift/common/middleware, which is the first of every pipeline, and `dump_trans_id`
in rgw_rest.cc of Ceph RGW.
"""

REFUSED_UNDONE = frozenset({408, 429, 498, 499})
"""Statuses of a request that the server did not accept: it will not carry it out later either."""

SKEW_SECONDS = 60.0
"""A difference of the clocks that may be the cause of a refusal: tokens and certificates have times."""

LONGEST_PAUSE = 365 * 86_400.0
"""Longer pauses that a server names are read as this one, in seconds."""

_UNSENT = (requests.ConnectTimeout, ConnectTimeoutError, NewConnectionError, ConnectionRefusedError)
"""Causes that come before the first byte of a request is sent."""

_INVALID_REQUEST = (
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidHeader,
    requests.exceptions.InvalidSchema,
)


def status_error(request: Request, status: int, headers: Mapping[str, str], text: str = "") -> StoreError:
    """Return the error for an answer outside 2xx; `headers` have lower-case names, `text` is its body."""
    retry_after = _seconds(headers.get("retry-after"))
    if status == 429 and request.key is not None and headers.get(RETRIEVAL_STATE, "unsealed") != "unsealed":
        return sealed(request.subject, retry_after)
    kind = _kind(request, status, text)
    # The text of a 404 or 5xx is the same page each time.
    detail = _one_line(text) if 400 <= status < 500 and status != 404 else ""
    if 300 <= status < 400:
        target = _printable(headers.get("location", ""), 100)
        detail = f"a redirect to {target or 'nowhere'}, which gets no token: check the storage URL"
    if status == 400 and "X-Delete-At" in request.headers:  # Swift takes no time that has passed
        detail += clock_difference(headers.get("date", ""))
    if is_refused_as_older(request, status):
        detail = "not stored, because Swift has a later version"
    transaction = next((headers[name] for name in REQUEST_IDS if headers.get(name)), "")
    message = f"{request.operation} {request.subject}: {status} {_phrase(status)}"
    message += f", {detail}" if detail else ""
    message += f" ({_printable(transaction, 80)})" if transaction else ""
    may_land = False if status in REFUSED_UNDONE else None
    return _about(request, kind(message, retry_after=retry_after, may_land=may_land))


def foreign_answer(request: Request, status: int, reason: str) -> NotSwift:
    """Return the error of an answer that is not Swift's, although its status is one that Swift sends."""
    message = f"{request.operation} {request.subject}: {status} {_phrase(status)}, {not_swift(reason)}"
    error = NotSwift(message)
    error.subject = request.subject
    return error


class RequestIds:
    """Tells other answers from a server's, once that has sent an id. It needs no lock: each call is one step.

    A proxy may remove the headers that it does not know, or replace each page of an error by one of its own.
    So an id is expected of successes when one of them had it, and of 404s when one of those had it: the write
    probe of a mount is answered so. The first 404 without one, after such a success, may be of either: `ask`
    sends a request that Swift answers otherwise, and returns the headers of the answer.
    """

    def __init__(self, ask: Callable[[], Mapping[str, str]]) -> None:
        self._ask = ask
        self._expected: set[bool] = set()
        self._are_replaced = False

    def check(self, request: Request, status: int, headers: Mapping[str, str]) -> None:
        """Raise `NotSwift` for a success or a 404 that is not Swift's.

        Any other error may come from a proxy before Swift as well: then nothing was done. So may the answer
        to `/info`, and a refusal of a bulk delete, whose names are deleted one by one then.
        """
        is_success = 200 <= status < 300
        if not (is_success or status == 404) or request.info:
            return
        if _has_id(headers):
            self._expected.add(is_success)
        elif request.has_verdict or not self._expected:
            return
        elif is_success in self._expected or not (is_success or self._is_replaced()):
            raise foreign_answer(request, status, f"it has no {REQUEST_IDS[0]}")

    def _is_replaced(self) -> bool:
        """Return whether Swift can be reached, so that a proxy has replaced its page of a 404."""
        if not self._are_replaced:
            self._are_replaced = _has_id(self._ask())
        return self._are_replaced


def _has_id(headers: Mapping[str, str]) -> bool:
    return any(headers.get(name) for name in REQUEST_IDS)


def not_swift(reason: str) -> NotSwift:
    """Return the error of an answer that is not Swift's."""
    return NotSwift(f"the answer is not Swift's, {reason}: check the storage URL and the proxy")


def _about(request: Request, error: StoreError) -> StoreError:
    error.subject = request.subject
    return error


def sealed(subject: str, seconds: float | None) -> Sealed:
    """Return the error of an object that an archive has sealed, and returns in so many seconds."""
    until = "until it is thawed" if seconds is None else f"for {when(seconds)}"
    error = Sealed(f"{subject} is sealed in the archive, and cannot be read {until}", retry_after=seconds)
    error.retryable = seconds is not None
    return error


def when(seconds: float) -> str:
    """Return how long a pause is, and when it ends, for a message."""
    end = datetime.fromtimestamp(unix_time() + seconds).astimezone()
    return f"{in_words(seconds)} (until {end:%Y-%m-%d %H:%M})"


def clock_difference(date: str) -> str:
    """Return in words how far this machine's clock is off, by the Date of an answer; empty if it is not."""
    try:
        moment = parsedate_to_datetime(date)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=timezone.utc)
        ahead = unix_time() - moment.timestamp()
    except (TypeError, ValueError, OverflowError):
        return ""
    if abs(ahead) < SKEW_SECONDS:
        return ""
    side = "ahead of" if ahead > 0 else "behind"
    return f"; this machine's clock is {in_words(abs(ahead))} {side} the server's"


def is_refused_as_older(request: Request, status: int) -> bool:
    """Return whether a 202 says that an object was not stored, because Swift has a later version.

    Swift's proxy makes it of its object servers' 409 (swift/proxy/controllers/obj.py, "202 for 409").
    """
    return status == 202 and request.key is not None and request.method in ("PUT", "COPY")


def network_error(request: Request, error: Exception) -> StoreError:
    """Return the error for a request without a complete answer."""
    return _about(request, _network_error(request, error))


def _network_error(request: Request, error: Exception) -> StoreError:
    message = f"{request.operation} {request.subject}: {reason(error)}"
    causes = list(causes_of(error))
    # These headers are the answer's: those of the request were checked.
    if any(isinstance(cause, InvalidHeader | BrokenHead) for cause in causes):
        return Corrupt(message, may_land=True)
    if isinstance(error, _INVALID_REQUEST):
        return BadRequest(message)
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return StoreError(message)
    sent = not any(isinstance(cause, _UNSENT) for cause in causes)
    if any(isinstance(cause, TimeoutError | requests.Timeout) for cause in causes) or "timed out" in message:
        return TimedOut(message, may_land=sent)
    return Unavailable(message, may_land=sent)


def reason(error: BaseException) -> str:
    """Return the innermost cause of `error` in a few words, without addresses in memory or URLs."""
    deepest = list(causes_of(error))[-1]
    if isinstance(deepest, BadStatusLine) and not isinstance(deepest, RemoteDisconnected):
        return f"it does not speak HTTP, but says {_printable(str(deepest).strip(), 80)!r}"
    text = re.sub(r"<[^>]*>:?\s*|\(?Caused by.*|\[(SSL|X509)[^]]*\] |\s*\(_ssl\.c:\d+\)", "", str(deepest))
    text = text.strip()
    quotes = len(re.findall(r"(?<!\w)'|'(?!\w)", text))  # not those of "can't"
    if quotes % 2 or (quotes == 2 and text[0] == text[-1] == "'"):
        text = text.strip(" '")  # a whole text in quotes, or what is left of one
    if text.startswith("(") or text.count(")") > text.count("("):  # the counterpart was removed
        text = text.strip(" ()'")
    return _printable(text, 300) or type(deepest).__name__


def _kind(request: Request, status: int, text: str) -> type[StoreError]:
    if status == 400 and re.search(r"name length of \d+ longer", text):
        return NameTooLong
    # Swift's quota middlewares say "Upload exceeds quota.", or "policy quota".
    if status == 413 and "quota" in text.lower():
        return QuotaExceeded
    is_container = request.container is not None and request.key is None
    if is_refused_as_older(request, status):
        return Clash
    if status == 409 and not request.meaning.get(409) and not (request.method == "DELETE" and is_container):
        return Clash
    if 300 <= status < 400:  # Swift redirects nobody
        return NotSwift
    fallback = Unavailable if status >= 500 else BadRequest
    return request.meaning.get(status) or STATUSES.get(status, fallback)


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """Yield `error` and its causes; urllib3 and requests put them into `reason` and `args`."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        inner = [getattr(current, "reason", None), *current.args, current.__cause__, current.__context__]
        current = next((cause for cause in inner if isinstance(cause, BaseException)), None)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "(not a standard status)"


def _one_line(text: str) -> str:
    plain = re.sub(r"<[^>]*>", " ", text)
    return _printable(" ".join(plain.split()), 200)


def _printable(text: str, length: int) -> str:
    """Return a server's text without characters that move a terminal's cursor or begin a line."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:length])


def _seconds(value: str | None) -> float | None:
    """Read a Retry-After header: whole seconds, or a date (RFC 9110, 10.2.3)."""
    try:
        return min(Retry().parse_retry_after(value), LONGEST_PAUSE) if value else None
    except (InvalidHeader, ValueError, OverflowError):  # the latter for too many digits, and odd dates
        return None
