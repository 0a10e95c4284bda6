"""Copies whose answer has no ETag: are they there? The source may be deleted next."""

from collections.abc import Callable

from swiftfs.errors import Corrupt, NotFound
from swiftfs.objects import ObjectInfo, ObjectName


def proved_copy(
    head: Callable[[ObjectName], ObjectInfo],
    source: ObjectName,
    target: ObjectName,
    *,
    manifest_only: bool,
    span: tuple[int, int] | None,
) -> str:
    """Return the ETag of a copy that a server says it has made; raise `Corrupt` if it is not there.

    Two HEADs; the arguments are those of `ObjectStore.copy`. Swift itself sends an ETag with every copy.
    """
    wanted = head(source)
    try:
        found = head(target)
    except NotFound:
        text = f"copy {source}: the server says that it is done, but there is no copy"
        raise Corrupt(text, may_land=True) from None
    # A copy of the bytes of a large object, and of a part, has an ETag of its own.
    is_large = wanted.is_slo or wanted.dlo_prefix is not None
    has_other_etag = span is not None or (is_large and not manifest_only)
    size = wanted.size if span is None else span[1] - span[0]
    if found.size != size or not (has_other_etag or found.version.etag == wanted.version.etag):
        text = f"copy {source}: the server says that it is done, but {target} is another object"
        raise Corrupt(text, may_land=True)
    return found.version.etag
