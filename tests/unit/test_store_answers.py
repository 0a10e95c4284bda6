"""Answers that a real Swift does not give, read by the functions that parse them."""

import time
from email.utils import formatdate

import pytest

from swiftfs.errors import Corrupt, Unavailable
from swiftfs.objects import Limits
from swiftfs.store.error_map import status_error
from swiftfs.store.request import Request
from swiftfs.store.wire.info import UNKNOWN, read_limits
from swiftfs.store.wire.listings import read_page


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>Welcome to our proxy</html>",
        b"{}",
        b'"text"',
        b"[1]",
        b"[",
        b"\xff",
        b'[{"bytes": 1}]',
        b'[{"name":"","bytes":1,"hash":"","content_type":"","last_modified":"2020"}]',
        b'[{"subdir":7}]',
        b'[{"subdir":"a/"}]',
    ],
)
def test_wrong_listings_are_refused(body: bytes) -> None:
    with pytest.raises(Corrupt):
        read_page([body], "c", marker="m", limit=0, limits=Limits())


def test_limits_of_servers_that_are_not_swift() -> None:
    rgw = b'{"swift": {"container_listing_limit": 1000, "max_object_name_size": 1024}, "slo": {}}'
    limits = read_limits(rgw, {})
    assert (limits.is_swift, limits.listing, limits.slo, limits.bulk_delete) == (False, 1000, True, 0)
    odd = b'{"swift": {"container_listing_limit": "many", "max_object_name_length": true}, "bulk_delete": 7}'
    limits = read_limits(odd, {"server": "Ceph Object Gateway"})
    assert (limits.is_swift, limits.listing, limits.name_bytes) == (False, 10_000, 1024)
    assert (limits.slo, limits.bulk_delete) == (False, 10_000)


def test_a_short_page_of_an_unknown_server_is_not_the_last() -> None:
    row = b'[{"name":"a","bytes":1,"hash":"","content_type":"","last_modified":"2020"}]'
    assert read_page([row], "c", marker="", limit=0, limits=Limits()).last
    assert not read_page([row], "c", marker="", limit=0, limits=UNKNOWN).last
    assert read_page([b"[]"], "c", marker="a", limit=0, limits=UNKNOWN).last


def test_swifts_own_rate_limit_may_pass() -> None:
    error = status_error(Request("put", "PUT", "c", "o"), 498, {"retry-after": "7"}, "<h1>Slow\n down</h1>")
    assert (type(error), error.retry_after, error.retryable) == (Unavailable, 7.0, True)
    assert "Slow down" in str(error)


@pytest.mark.parametrize(
    ("days", "said"),
    [
        (3, "X-Delete-At in past; this machine's clock is 3 d behind the server's (tx1)"),
        (-3, "X-Delete-At in past; this machine's clock is 3 d ahead of the server's (tx1)"),
        (0, "X-Delete-At in past (tx1)"),
    ],
)
def test_a_refused_time_names_a_clock_that_is_off(days: int, said: str) -> None:
    request = Request("copy", "COPY", "c", "o", headers={"X-Delete-At": "1"})
    headers = {"date": formatdate(time.time() + 86_410 * days, usegmt=True), "x-trans-id": "tx1"}
    assert str(status_error(request, 400, headers, "X-Delete-At in past")).endswith(
        f"400 Bad Request, {said}"
    )
    plain = Request("put", "PUT", "c", "o")
    assert str(status_error(plain, 400, headers, "Bad name")).endswith("400 Bad Request, Bad name (tx1)")


def test_retry_after_may_be_a_date() -> None:
    request = Request("put", "PUT", "c", "o")
    assert status_error(request, 503, {"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}).retry_after == 0.0
    in_a_minute = formatdate(time.time() + 60, usegmt=True)
    assert 50 < (status_error(request, 503, {"retry-after": in_a_minute}).retry_after or 0) <= 60
    assert status_error(request, 503, {"retry-after": "soon"}).retry_after is None
