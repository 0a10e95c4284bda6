"""The operations that store again what a late request has overwritten, by what is recorded of it."""

import stat

from swiftfs.attributes import decode_type, is_directory_type
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.journal.operations import (
    Delete,
    Operation,
    PutFile,
    PutMarker,
    PutSpecial,
    ReplaceHeaders,
    SetAttributes,
)
from swiftfs.objects import ObjectInfo, ObjectName
from swiftfs.store.ambiguous import Effect
from swiftfs.store.object_meta import ObjectMeta
from swiftfs.store.protocol import Headers


def is_marker(last: Effect) -> bool:
    """Return whether a folder's marker was stored."""
    return last.headers is not None and is_directory_type(last.headers.content_type) and last.body == b""


def is_special(last: Effect) -> bool:
    """Return whether a symbolic link or special file was stored."""
    if last.headers is None or last.body is None:
        return False
    mode = decode_type(last.headers.content_type)[1].mode
    return mode is not None and not stat.S_ISREG(mode)


def headers_again(name: ObjectName, last: Effect, info: ObjectInfo) -> Operation | None:
    """Return the operation that gives the object its headers again, None if they are unknown."""
    if last.headers is None:
        return None
    if is_directory_type(last.headers.content_type) or info.dlo_prefix is not None:
        return ReplaceHeaders(name, last.headers)
    return SetAttributes(name, ObjectMeta.of(last.headers).with_slo(None), is_slo=info.is_slo)


def object_again(name: ObjectName, last: Effect, info: ObjectInfo | None) -> Operation | None:
    """Return the operation that deletes the object again, or makes it a folder or special file again."""
    if last.kind == "delete":
        return Delete(name, info.is_slo, info.version.etag) if info is not None else None
    assert last.headers is not None
    if is_marker(last):
        if info is None:
            return PutMarker(name, last.headers, creates=False)
        meta = ObjectMeta(last.headers.content_type).inherit(last.headers)
    else:
        meta = ObjectMeta.of(last.headers).with_slo(None)
    is_slo = info.is_slo if info is not None else False
    etag = info.version.etag if info is not None else None
    return PutSpecial(name, last.body or b"", meta, is_slo, etag)


def file_again(
    name: ObjectName, cached_file: CachedFile, headers: Headers, info: ObjectInfo | None
) -> Operation:
    """Return the operation that stores the file again."""
    is_slo = info.is_slo if info is not None else False
    etag = info.version.etag if info is not None else None
    return PutFile(name, cached_file.to_record(), ObjectMeta.of(headers).with_slo(None), is_slo, etag)
