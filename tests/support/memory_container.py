"""The containers of `MemoryStore`, and the versions that one with versioning keeps."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import unquote

from msgspec import Struct
from msgspec.structs import replace

from swiftfs.objects import History, Manifest, ObjectName
from swiftfs.store.protocol import Headers
from swiftfs.store.wire.listings import CURRENT, DELETED_TYPE


class StoredObject(Struct, frozen=True, dict=True):
    """An object, or with `DELETED_TYPE` its deletion."""

    body: bytes
    headers: Headers
    modified_ns: int
    manifest: Manifest | None = None

    @cached_property
    def md5(self) -> str:
        """The MD5 of `body`, which every answer has: kept, because `body` may be 100 MB."""
        return md5(self.body)

    @property
    def is_deletion(self) -> bool:
        """Whether it tells of a deletion."""
        return self.headers.content_type == DELETED_TYPE

    @property
    def dlo_prefix(self) -> ObjectName | None:
        """How the names of a DLO's segments begin."""
        text = self.headers.preserved_headers.get("X-Object-Manifest")
        return None if text is None else ObjectName.parse(unquote(text))


_DELETION = StoredObject(b"", Headers(DELETED_TYPE), 0)


@dataclass
class Container:
    """Objects by their keys; of a container with versioning also all their versions, the oldest first.

    `changed` are the keys whose headers were changed after they were stored.
    """

    objects: dict[str, StoredObject] = field(default_factory=dict)
    versions: dict[str, list[tuple[str, StoredObject]]] = field(default_factory=dict)
    history: History = History.NONE
    is_versioned: bool = False
    changed: set[str] = field(default_factory=set)
    quota_bytes: int | None = None
    quota_objects: int | None = None
    metadata: dict[str, str] = field(default_factory=dict)

    def store(self, key: str, found: StoredObject) -> None:
        """Store an object, and keep what was there before."""
        self._keep_unversioned(key)
        found = self._without_expiry(found)
        self.objects[key] = found
        self.changed.discard(key)
        if self.is_versioned:
            self._kept(key).append((version_id_of(found.modified_ns), found))

    def remove(self, key: str, now_ns: int) -> None:
        """Delete an object; a deletion is a version too, even of an object that does not exist."""
        self._keep_unversioned(key)
        self.objects.pop(key, None)
        if self.is_versioned:
            self._kept(key).append((version_id_of(now_ns), replace(_DELETION, modified_ns=now_ns)))

    def replace(self, key: str, found: StoredObject) -> None:
        """Give an object other headers, which makes no new version."""
        kept = self.versions.get(key)
        found = self._without_expiry(found)
        if kept and kept[-1][1] is self.objects[key]:
            kept[-1] = kept[-1][0], found
        self.objects[key] = found
        self.changed.add(key)

    def _without_expiry(self, found: StoredObject) -> StoredObject:
        """Return the object as it is stored: with versioning Swift takes no X-Delete-At."""
        if not self.is_versioned:
            return found
        headers = found.headers.preserved_headers
        kept = {name: value for name, value in headers.items() if name != "X-Delete-At"}
        return replace(found, headers=replace(found.headers, preserved_headers=kept))

    def is_stripped(self, key: str) -> bool:
        """Return whether a listing shows an object without the parameters of its Content-Type."""
        has_parameters = ";" in self.objects[key].headers.content_type
        return key not in self.changed and self._is_kept(key) and has_parameters

    def version(self, key: str, version_id: str) -> StoredObject | None:
        """Return a version, `null` for an object that is none."""
        if version_id == CURRENT:
            return self.objects.get(key) if not self._is_kept(key) else None
        return dict(self.versions.get(key, ())).get(version_id)

    def rows(self, key: str) -> list[tuple[str, StoredObject, bool]]:
        """Return the versions of an object with their ids, the newest first, and which is the latest."""
        current, kept = self.objects.get(key), self.versions.get(key, [])
        found = [(number, one, one is current) for number, one in reversed(kept)]
        if current is not None and not self._is_kept(key):
            return [(CURRENT, current, True), *found]
        if current is None and found and found[0][1].is_deletion:
            found[0] = (*found[0][:2], True)
        return found

    def _kept(self, key: str) -> list[tuple[str, StoredObject]]:
        return self.versions.setdefault(key, [])

    def _is_kept(self, key: str) -> bool:
        return any(one is self.objects.get(key) for _, one in self.versions.get(key, ()))

    def _keep_unversioned(self, key: str) -> None:
        if self.is_versioned and key in self.objects and not self._is_kept(key):
            before = self.objects[key]
            self._kept(key).append((version_id_of(before.modified_ns), before))


def version_id_of(ns: int) -> str:
    return f"{ns // 10**9:010d}.{ns // 10_000 % 10**5:05d}"


def md5(content: bytes) -> str:
    """Return the MD5 of bytes as hexadecimal text."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
