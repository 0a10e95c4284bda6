"""Objects whose bytes lie elsewhere: large objects, and symlinks of Swift.

Whoever may write to a container can store a manifest there, of objects that only the owner may read. Swift
then serves their bytes to the owner under the manifest's name, and a program that copies them publishes them.
"""

from collections.abc import Callable

from cachetools import LRUCache
from msgspec import Struct

from swiftfs.concurrency import Rank, new_lock
from swiftfs.errors import ForeignManifest, Unavailable
from swiftfs.objects import Manifest, ObjectInfo, ObjectName, ObjectVersion
from swiftfs.store.wire.manifests import Named

MAX_CHECKED = 10_000
"""How many versions of large objects are remembered; another check costs a request."""

MAX_NESTED = 100
"""The most manifests that are read for one object: manifests may name manifests."""

MayRead = Callable[[ObjectName, ObjectName], bool]
"""Returns whether the first object may take its bytes from the second, or from all whose names begin so."""


class Found(Struct, frozen=True):
    """The answer to `?multipart-manifest=get`; `source` is a symlink's target, `names` an SLO's segments."""

    info: ObjectInfo
    source: ObjectName | None
    names: Named


class ForeignManifests:
    """Refuses objects that take their bytes from where `may_read` does not allow it.

    A version of an SLO is checked once, by a request for its manifest, and one for each manifest that this
    names. A checked version is recognized by its ETag, or by its modification time, which the answers for the
    manifest and for the bytes have in common.
    """

    def __init__(self, may_read: MayRead, read_manifest: Callable[[ObjectName], Found]) -> None:
        self._may_read = may_read
        self._read_manifest = read_manifest
        self._lock = new_lock(Rank.STORE)
        self._allowed: LRUCache[ObjectVersion | tuple[ObjectName, int], None] = LRUCache(MAX_CHECKED)

    def check(self, info: ObjectInfo, source: ObjectName | None) -> None:
        """Raise `ForeignManifest` if the object of an answer may not be read; `source` is a symlink's target.

        Raise `Unavailable` if it has changed since that answer, and the store's errors.
        """
        name = info.version.name
        self._check_headers(info, source)
        if not info.is_slo:
            return
        if not self._is_allowed((name, info.last_modified_ns)) and not self._is_allowed(info.version):
            found = self._check_manifest(name)
            if found.info.last_modified_ns != info.last_modified_ns:
                raise Unavailable(f"{name}: another client changed it while it was read", may_land=False)
        self.learn(info.version)

    def check_version(self, version: ObjectVersion) -> Manifest | None:
        """As `check`, for a version of an SLO or DLO; return the manifest if it had to be read."""
        return None if self._is_allowed(version) else self._check_manifest(version.name).names.manifest

    def learn(self, version: ObjectVersion) -> None:
        """Record that a version may be read: it was checked, or this process has stored it."""
        with self._lock:
            self._allowed[version] = None

    def _is_allowed(self, key: ObjectVersion | tuple[ObjectName, int]) -> bool:
        with self._lock:
            return key in self._allowed

    def _check_headers(self, info: ObjectInfo, source: ObjectName | None) -> None:
        name = info.version.name
        if info.dlo_prefix is not None:
            self._check_one(name, info.dlo_prefix)
        if source is not None and source != name:
            self._check_one(name, source)

    def _check_manifest(self, name: ObjectName) -> Found:
        """Check an SLO, a DLO or a symlink by what it names, and remember the version; return it."""
        found = self._read_manifest(name)
        self._check_headers(found.info, found.source)
        waiting, manifests = list(found.names.objects), 0
        while waiting:
            segment, nested = waiting.pop()
            self._check_one(name, segment)
            if nested:
                manifests += 1
                if manifests > MAX_NESTED:
                    self._refuse(name, "it names too many manifests")
                waiting += self._read_manifest(segment).names.objects
        if found.info.last_modified_ns:
            with self._lock:
                self._allowed[name, found.info.last_modified_ns] = None
        return found

    def _check_one(self, name: ObjectName, segment: ObjectName) -> None:
        if not self._may_read(name, segment):
            self._refuse(name, f"its bytes lie in {str(segment)[:200]}")

    def _refuse(self, name: ObjectName, why: str) -> None:
        text = f"{name} is not read: {why}; foreign_manifests=follow allows it"
        raise ForeignManifest(text if text.isprintable() else ascii(text))
