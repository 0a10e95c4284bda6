"""The options of a running mount: which are in force, and which can be changed while it runs."""

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from swiftfs.attributes import SET_SEPARATOR
from swiftfs.concurrency import Rank, new_lock
from swiftfs.config.options import OPTIONS, Options
from swiftfs.config.sources import Setting, changed_options
from swiftfs.errors import ConfigurationError

log = logging.getLogger(__name__)

LIVE = (
    *("bwlimit", "tpslimit", "budget"),
    *("read_ahead", "prefetch", "cache_size", "uploads", "settle", "drain"),
)
"""The options that can be changed while a mount runs, in the order in which they are shown."""

ORIGIN = "swiftfs set"


class LiveOptions:
    """The options in force. `setters` has for each option that can be changed what carries that out.

    A value is in force in the whole mount, or not at all: all values are checked before the first one counts.
    """

    def __init__(self, options: Options, setters: Mapping[str, Callable[[Any], None]]) -> None:
        self._options = options
        self._setters = setters
        self._lock = new_lock(Rank.LIVE_OPTIONS)

    @property
    def options(self) -> Options:
        """The options in force."""
        return self._options

    def shown(self) -> dict[str, str]:
        """Return the options that can be changed, as a user would type them."""
        return {name: shown(name, getattr(self._options, name)) for name in LIVE if name in self._setters}

    def change(self, settings: Iterable[Setting]) -> None:
        """Bring settings into force; raise `ConfigurationError`, and change nothing, if one is refused."""
        given = {setting.name: setting for setting in settings}
        with self._lock:
            changed = changed_options(self._options, given.values())
            for name in given:
                self._check(name, self._options, changed)
            before, self._options = self._options, changed
            for name in given:
                value = getattr(changed, name)
                if value != getattr(before, name):
                    log.info("option %s=%s is in force", name, shown(name, value))
                    self._setters[name](value)

    def answer(self, request: str) -> str:
        """Carry out the `name=value`s of a request; return the options in force, or the error, as JSON."""
        settings = [Setting(*_pair(word), ORIGIN) for word in request.split(SET_SEPARATOR) if word]
        try:
            self.change(settings)
        except ConfigurationError as error:
            return json.dumps({"error": str(error)})
        return json.dumps({"options": self.shown()})

    def _check(self, name: str, before: Options, changed: Options) -> None:
        if name not in self._setters:
            raise ConfigurationError(
                f"option {name} needs a new mount: unmount, then mount with it; "
                f"these can be set: {', '.join(self._setters)}"
            )
        if name == "settle" and (before.sync or not before.settle or not changed.settle):
            raise ConfigurationError("option settle needs a new mount where close() waits, or is to wait")


def shown(name: str, value: Any) -> str:
    """Return a value as the user would type it, or a word for one that there is not."""
    if value is None:
        return "auto" if name == "cache_size" else "off"
    return OPTIONS[name].kind.show(value)


def _pair(word: str) -> tuple[str, str]:
    name, _, value = word.partition("=")
    return name, value
