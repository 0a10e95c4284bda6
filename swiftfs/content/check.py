"""Whether the bytes of a plain object that came in pieces are the object: its ETag is their MD5."""

import logging
import re

from swiftfs.model import ObjectVersion

log = logging.getLogger(__name__)

_MD5 = re.compile(r"[0-9a-f]{32}")


class Check:
    """The state of one check, guarded by the content's lock. `done` says that the bytes are right.

    `changes` counts what makes an earlier look at the bytes worthless. After one mismatch the bytes are
    fetched again; after two the object or the way to it is at fault, and `failure` says so.
    """

    def __init__(self, *, done: bool) -> None:
        self.done = done
        self.running = False
        self.changes = 0
        self.failure = ""
        self._mismatches = 0

    def begin(self, *, done: bool) -> None:
        """Begin anew, with the bytes of another version."""
        self.forget()
        self.done, self.failure, self._mismatches = done, "", 0

    def is_due(self, etag: str) -> bool:
        """Say whether bytes of that ETag, all of which are there, are to be looked at now."""
        return not (self.done or self.running or self.failure) and bool(_MD5.fullmatch(etag))

    def forget(self) -> None:
        """Take note that bytes changed or went."""
        self.done = False
        self.changes += 1

    def learn(self, version: ObjectVersion, digest: str) -> bool:
        """Take note of the MD5 that the bytes have; say whether it is the right one."""
        self.done = digest == version.etag
        if self.done:
            return True
        said = f"{version.name}: the bytes that came have the MD5 {digest} instead of {version.etag}"
        self._mismatches += 1
        if self._mismatches == 1:
            log.info("%s; they are fetched again", said)
        else:
            self.failure = said
            log.error("%s, twice", said)
        return False
