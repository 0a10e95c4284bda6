"""Finds out whether an account may write to the source of a mount."""

import logging
import uuid

from swiftfs.errors import AccessDenied, StoreError
from swiftfs.objects import ObjectName
from swiftfs.paths import Source
from swiftfs.store.protocol import ObjectStore

log = logging.getLogger(__name__)


def may_write(store: ObjectStore, source: Source) -> bool:
    """Return whether objects of `source` may be changed: by one DELETE of a name that does not exist.

    Swift checks the permission before it looks for the object, so it answers 403 to readers and 404 to
    writers. Unknown cases (a whole account, an outage) count as allowed: the failing operation will report
    it.
    """
    if source.is_account:
        return True
    try:
        store.delete(ObjectName(source.container, f"{source.prefix}.swiftfs-{uuid.uuid4().hex}"))
    except AccessDenied as error:
        log.debug("%s may only be read: %s", source, error)
        return False
    except StoreError as error:
        log.debug("cannot find out whether %s is writable: %s", source, error)
    return True
