"""Which intents about one name become one: what nobody would see is not sent."""

from dataclasses import replace

from swiftfs.journal.intents import (
    Delete,
    Describe,
    Intent,
    PutFile,
    PutMarker,
    PutSmall,
    SetHeaders,
)


def coalesce(earlier: Intent, later: Intent) -> tuple[Intent, ...] | None:
    """Return what stands for both intents, nothing or one; None when both must be executed in their order.

    `earlier` waits for its execution and is the last of its name, which `later` has too.
    """
    merged: Intent | None
    match earlier, later:
        case PutMarker(), Delete():
            merged = None if earlier.fresh else later
        case (PutFile() | PutSmall(), Delete()):
            merged = None
            if not earlier.fresh:
                merged = Delete(earlier.name, earlier.replaces_large, earlier.replaces_etag)
        case (PutFile() | PutSmall(), PutFile() | PutSmall()):
            merged = replace(
                later,
                replaces_large=earlier.replaces_large,
                replaces_etag=earlier.replaces_etag,
                fresh=earlier.fresh,
            )
            if isinstance(merged, PutFile) and isinstance(earlier, PutFile):
                merged = replace(merged, garbage=earlier.garbage)
        case PutFile(), Describe():
            merged = replace(earlier, description=later.description, inherit=False)
        case PutSmall(), Describe():
            merged = replace(earlier, description=later.description)
        case (PutMarker(), SetHeaders()):
            merged = replace(earlier, headers=later.headers)
        case (Delete(), PutFile() | PutSmall()):
            merged = replace(later, replaces_large=earlier.large, replaces_etag=earlier.etag, fresh=False)
        case (Describe() | SetHeaders(), Describe() | SetHeaders() | Delete() | PutFile()):
            merged = later
        case _:
            return None
    return (merged,) if merged is not None else ()


def attempted(intent: Intent) -> Intent:
    """Return the intent as it is after an attempt: it may stand in Swift, whatever the answer was."""
    if isinstance(intent, PutFile | PutSmall) and not intent.replaces_large:
        return replace(intent, fresh=False, replaces_large=None)
    return replace(intent, fresh=False) if isinstance(intent, PutMarker) else intent
