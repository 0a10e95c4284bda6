"""What requests and traffic cost, by the user's own table: swiftfs knows no provider's prices."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from swiftfs.config.sources import read_toml
from swiftfs.errors import ConfigurationError
from swiftfs.objects import REQUEST_CLASSES, Counts

GB = 10**9
"""The unit in which providers charge traffic; not GiB."""

DEFAULT = "default"


class Cost(Struct, frozen=True):
    """What a mount's requests and its traffic have cost so far, without storage."""

    currency: str
    requests: float
    traffic: float

    @property
    def total(self) -> float:
        """The sum of both."""
        return self.requests + self.traffic


class MonthCost(Struct, frozen=True):
    """What the `month` (local time, such as 2026-11) has cost so far, and its budget, None without one."""

    month: str
    currency: str
    cost: float
    budget: float | None = None

    @property
    def part(self) -> float:
        """How much of the budget is spent, 0 without one."""
        if self.budget is None:
            return 0.0
        return self.cost / self.budget if self.budget else 1.0

    @property
    def is_spent(self) -> bool:
        """Whether nothing is left of the budget."""
        return self.part >= 1


class Prices(Struct, frozen=True):
    """Prices in one currency: `requests` for 1,000 of a class, `sent` and `received` for a GB of bodies."""

    currency: str
    requests: Mapping[str, float] = field(default_factory=dict)
    sent: float = 0.0
    received: float = 0.0

    @classmethod
    def read(cls, path: Path) -> "Prices":
        """Read the TOML file at `path`; raise `ConfigurationError`, which says what is wrong in it."""
        subject = f"option prices={path}"
        # Whoever can change the prices can only mislead: they need no check.
        _, values = read_toml(path, subject, lambda _descriptor: None)
        try:
            return cls._of(values)
        except ValueError as error:
            raise ConfigurationError(f"{subject}: {error}") from None

    @classmethod
    def _of(cls, values: dict[str, Any]) -> "Prices":
        _check_names(values, ("currency", "requests", "traffic"), "")
        currency = values.get("currency")
        if not isinstance(currency, str) or not currency.isprintable() or not 0 < len(currency) <= 10:
            raise ValueError('set the currency, such as currency = "EUR"')
        requests = _prices(values, "requests", (DEFAULT, *REQUEST_CLASSES))
        traffic = _prices(values, "traffic", ("sent", "received"))
        return cls(currency, requests, traffic.get("sent", 0.0), traffic.get("received", 0.0))

    def cost(self, counts: Counts) -> Cost:
        """Return what the requests counted cost. Failures count: whether they are billed is not known."""
        other = self.requests.get(DEFAULT, 0.0)
        requests = sum(
            count.requests * self.requests.get(name, other) for name, count in counts.classes.items()
        )
        total = counts.total
        traffic = total.bytes_sent * self.sent + total.bytes_received * self.received
        return Cost(self.currency, requests / 1000, traffic / GB)


def _prices(values: dict[str, Any], table: str, names: tuple[str, ...]) -> dict[str, float]:
    prices = values.get(table, {})
    if not isinstance(prices, dict):
        raise ValueError(f"write {table} as a table, [{table}]")  # noqa: TRY004  the caller reports one kind
    _check_names(prices, names, f"{table}.")
    for name, price in prices.items():
        known = isinstance(price, int | float) and not isinstance(price, bool)
        if not known or not 0 <= price < math.inf:
            raise ValueError(f"{table}.{name}: expected a number, 0 or more")
    return {name: float(price) for name, price in prices.items()}


def _check_names(values: dict[str, Any], names: tuple[str, ...], place: str) -> None:
    for name in values:
        if name not in names:
            import difflib  # noqa: PLC0415  only a mistake needs it

            near = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; expected one of {', '.join(names)}"
            raise ValueError(f"{place}{name} is not a known price{hint}")
