"""What is found at the places of a move, where lost requests of it may be carried out late."""

from swiftfs.journal.move_items import etag_of
from swiftfs.objects import ObjectInfo, ObjectName, Row
from swiftfs.store.ambiguous import GONE, AmbiguousRequests, Effect
from swiftfs.store.protocol import Headers


class MoveFindings:
    """Tells `ambiguous` what stands at a name; it ignores names about which no request was lost."""

    def __init__(self, ambiguous: AmbiguousRequests) -> None:
        self._ambiguous = ambiguous

    def record(
        self,
        name: ObjectName,
        info: ObjectInfo | None,
        copy_of: ObjectName | None = None,
        etag: str | None = None,
    ) -> None:
        """Tell what stands where a request of the process that died may be carried out late.

        It is the copy of an object if it has this `etag`, or if that is None.
        """
        effect = GONE
        if info is not None:
            source = copy_of if etag in (None, info.version.etag) else None
            headers = None if info.is_slo else Headers.of(info)  # they are fetched with the manifest
            effect = Effect("put", info.version.etag, headers, source=source)
        self._ambiguous.done(name, lambda: effect)

    def record_rows(
        self, source: ObjectName, here: Row | None, target: ObjectName, there: Row | None
    ) -> None:
        """Tell what listings show at both places of an object; what is absent at the target may come."""
        stands = GONE if here is None else Effect("put", etag_of(here))
        self._ambiguous.done(source, lambda: stands)
        if there is not None:
            is_copy = here is None or here.hash == there.hash
            copy = Effect("put", etag_of(there), source=source if is_copy else None)
            self._ambiguous.done(target, lambda: copy)
