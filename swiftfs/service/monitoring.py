"""Monitoring of a mount: its metrics, and the files of its control folder."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from swiftfs.config.options import Options
from swiftfs.config.prices import Prices
from swiftfs.service.logging import Recent

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
