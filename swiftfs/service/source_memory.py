"""What the server has said about a mount's source, kept for a start without the server."""

import json
import logging
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from swiftfs.config.cache_dir import SOURCE, new_file
from swiftfs.lazy_dataclass import dataclass
from swiftfs.objects import History, Usage
from swiftfs.service.first_requests import as_allowed, look_up_if_there
from swiftfs.service.mountpoint import MountRequest
from swiftfs.store.connect import ConnectedAccount

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SourceMemory:
    """The last answers about the source `identity`.

    `place` is as in `Account.place`; `refused` is whether the user might not write there.
    """

    identity: str
    place: str
    refused: bool
    usage: Usage

    @classmethod
    def load(cls, cache: Path, identity: str) -> "SourceMemory | None":
        """Return what is known of the source, None if nothing is."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            values = json.loads((cache / SOURCE).read_text())
            usage = values.pop("usage")
            usage["history"] = History[usage["history"]]
            known = cls(**values, usage=Usage(**usage))
            return known if known.identity == identity else None
        return None

    def save(self, cache: Path) -> None:
        """Write it to the cache folder; a disk that refuses it is only reported."""
        try:
            new = cache / f"{SOURCE}.new"
            usage = {name: getattr(self.usage, name) for name in Usage.__dataclass_fields__}
            usage |= {"metadata": dict(self.usage.metadata), "history": self.usage.history.name}
            values = {"identity": self.identity, "place": self.place, "refused": self.refused, "usage": usage}
            with os.fdopen(new_file(new), "w") as file:
                json.dump(values, file)
            new.replace(cache / SOURCE)
        except OSError as error:
            log.warning("%s cannot be written: %s", cache / SOURCE, error.strerror)

    def allowed(self, request: MountRequest) -> MountRequest:
        """Return the request, read-only if the user might not write the last time."""
        if not self.refused or request.options.ro:
            return request
        return replace(request, options=replace(request.options, ro=True), refused=True)


def identity_of(request: MountRequest, label: str) -> str:
    """Return what tells a source from others, without a request."""
    return f"{request.source} of {label}"


@dataclass(frozen=True, slots=True)
class FoundSource:
    """What is known of the source when a mount begins: from the server, or from `memory` while it is away."""

    request: MountRequest
    usage: Usage | None
    memory: SourceMemory | None


def find_source(request: MountRequest, account: ConnectedAccount, cache: Path) -> FoundSource:
    """Ask the server for the source, or the cache folder, if the server is away and the mount may be offline.

    Raise `ConfigurationError` if it cannot be used.
    """
    usage = look_up_if_there(request, account)
    if usage is not None:
        request = as_allowed(request, account, usage)
    if not request.options.offline:
        return FoundSource(request, usage, None)
    identity = identity_of(request, account.label)
    if usage is not None:
        memory = SourceMemory(identity, account.place, request.refused, usage)
        return FoundSource(request, usage, memory)
    known = SourceMemory.load(cache, identity)
    if known is None:
        return FoundSource(request, None, None)
    return FoundSource(known.allowed(request), known.usage, known)
