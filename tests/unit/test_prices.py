"""The table of prices: its classes of requests, costs, and errors in it."""

from pathlib import Path

import pytest

from swiftfs.config.prices import Prices
from swiftfs.errors import ConfigurationError
from swiftfs.objects import REQUEST_CLASSES, Count, Counts
from swiftfs.store.protocol import ObjectStore

TABLE = """
currency = "EUR"
[requests]
default = 0.5
put = 2
delete = 0
[traffic]
sent = 0.01
received = 0.1
"""

COUNTS = Counts(
    {
        "put": Count(requests=1000, bytes_sent=3_000_000_000),
        "delete": Count(requests=5000),
        "get": Count(requests=2000, bytes_received=20_000_000_000),
    }
)


def read(folder: Path, text: str) -> Prices:
    (folder / "prices.toml").write_text(text)
    return Prices.read(folder / "prices.toml")


def test_requests_and_traffic_have_prices(tmp_path: Path) -> None:
    cost = read(tmp_path, TABLE).cost(COUNTS)
    assert cost.requests == pytest.approx(2 + 0 + 1)
    assert cost.traffic == pytest.approx(0.03 + 2)
    assert cost.currency == "EUR"
    assert cost.total == pytest.approx(5.03)


def test_requests_that_the_table_lacks_are_free(tmp_path: Path) -> None:
    assert read(tmp_path, 'currency = "KRW"').cost(COUNTS).total == 0
    assert read(tmp_path, 'currency = "KRW"\n[requests]\nget = 3').cost(COUNTS).total == pytest.approx(6)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 'set the currency, such as currency = "EUR"'),
        ("currency = 3", 'set the currency, such as currency = "EUR"'),
        ('currency = "EUR"\nrequest = 3', "request is not a known price; did you mean 'requests'?"),
        ('currency = "EUR"\n[requests]\nputt = 3', "requests.putt is not a known price; did you mean 'put'?"),
        (
            'currency = "EUR"\n[traffic]\nzzz = 3',
            "traffic.zzz is not a known price; expected one of sent, received",
        ),
        ('currency = "EUR"\n[traffic]\nsent = -1', "traffic.sent: expected a number, 0 or more"),
        ('currency = "EUR"\n[traffic]\nsent = inf', "traffic.sent: expected a number, 0 or more"),
        ('currency = "EUR"\n[requests]\nput = "1"', "requests.put: expected a number, 0 or more"),
        ('currency = "EUR"\n[requests]\nput = true', "requests.put: expected a number, 0 or more"),
        ('currency = "EUR"\nrequests = 3', "write requests as a table, [requests]"),
        ("currency", "Expected '='"),
    ],
)
def test_a_wrong_price_is_reported_in_one_line(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        read(tmp_path, text)
    assert str(error.value).startswith(f"option prices={tmp_path / 'prices.toml'}: {expected}")
    assert "\n" not in str(error.value)


def test_a_missing_table_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"option prices=\S+/none: No such file or directory"):
        Prices.read(tmp_path / "none")


def test_the_request_classes_are_the_store_s_methods() -> None:
    methods = {name for name in vars(ObjectStore) if not name.startswith("_")}
    # Those of `check_manifest` are counted as `manifest`.
    assert set(REQUEST_CLASSES) == methods - {"close", "check_manifest"}
