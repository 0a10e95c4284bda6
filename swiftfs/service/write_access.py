"""What an account may do with what it mounts."""

import logging
import uuid

from swiftfs.errors import AccessDenied, StoreError
from swiftfs.objects import ObjectName
from swiftfs.paths import Source
from swiftfs.store.protocol import ObjectStore

log = logging.getLogger(__name__)


def may_write(store: ObjectStore, source: Source) -> bool:
    """Return whether objects of `source` may be changed: by one DELETE of a name that nobody has.

    Swift asks who we are before it looks for the object, so it answers 403 to readers and 404 to writers.
    What cannot be told (a whole account, an outage) counts as allowed: the failing operation will report it.
    """
    if source.is_account:
        return True
    try:
        store.delete(ObjectName(source.container, f"{source.prefix}.swiftfs-{uuid.uuid4().hex}"))
    except AccessDenied as error:
        log.info("%s is mounted read-only: %s", source, error)
        return False
    except StoreError as error:
        log.debug("cannot find out whether %s is writable: %s", source, error)
    return True
