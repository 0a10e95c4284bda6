"""Copies an object to a name where nobody must lose anything: nothing is there, or a known version.

Swift has no condition for the target of a COPY. A PUT has one, `If-None-Match: *`: a large object is stored
by its manifest, and a small one by its bytes. For the others a HEAD comes directly before the COPY.
"""

from contextlib import suppress

from swiftfs.errors import AlreadyExists, BadRequest, Corrupt, NotFound
from swiftfs.objects import Manifest, ObjectInfo, ObjectName
from swiftfs.store.protocol import CopyRequest, Headers, ObjectStore
from swiftfs.store.server_copies import prove_copy

SMALL = 1024**2
"""Bytes of an object that is read and stored again: that takes as many requests as a HEAD and a COPY, and
hardly more time."""


def copy_to_free_name(store: ObjectStore, source: ObjectInfo, target: ObjectName, headers: Headers) -> None:
    """Copy an object, whose headers are `headers` now; return when its copy is certainly there.

    Raise `AlreadyExists` if there is an object at `target`, and other errors of the store.
    """
    if source.is_slo and (manifest := _manifest(store, source)) is not None:
        stored = store.put_manifest(target, manifest, headers, if_absent=True)
        if stored.version.etag != manifest.etag:
            raise Corrupt(f"{target}: the server did not store the manifest as it was sent", may_land=True)
    elif _is_small(source):
        store.put(target, _read(store, source), headers, if_absent=True)
    else:
        copy_over(store, source, target, None)


def copy_over(
    store: ObjectStore, source: ObjectInfo, target: ObjectName, replaces: ObjectInfo | None
) -> None:
    """Copy an object over the version `replaces`; return when its copy is certainly there.

    Raise `AlreadyExists` if there is another object at `target` directly before, and other errors of the
    store.
    """
    found = None
    with suppress(NotFound):
        found = store.head(target)
    if found is not None and (replaces is None or found.version != replaces.version):
        raise AlreadyExists(f"{target}: another client has stored it meanwhile")
    request = CopyRequest(source.version.name, target, manifest_only=True)
    store.copy(request)
    # The ETag in the answer is another one for a DLO, and for a symlink of Swift.
    prove_copy(request, source, store.head)


def _manifest(store: ObjectStore, source: ObjectInfo) -> Manifest | None:
    """Return the manifest of a large object, None if it cannot be stored as it is."""
    try:
        manifest = store.manifest(source.version.name)
    except (BadRequest, Corrupt):  # for example with bytes of its own
        return None
    return manifest if manifest.etag == source.version.etag else None


def _is_small(source: ObjectInfo) -> bool:
    is_plain = not (source.is_slo or source.is_symlink or source.unreadable) and source.dlo_prefix is None
    return is_plain and source.retrieval is None and source.size <= SMALL


def _read(store: ObjectStore, source: ObjectInfo) -> bytes:
    body = bytearray(source.size)

    def take(offset: int, data: bytes) -> None:
        body[offset : offset + len(data)] = data

    store.get(source.version.name, take, etag=source.version.etag, size=source.size)
    return bytes(body)
