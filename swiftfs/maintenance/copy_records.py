"""Records of what `swiftfs cp` is copying, so that the next run continues: small files on this machine.

The record of a large object is locked by the process that copies. It is written before the first segment is
stored, and removed after the manifest is. If it is lost, `swiftfs gc` finds the segments.

The record of a folder says that it is copied to a name that did not exist. Without it the next run would find
that name, and copy into it.
"""

import fcntl
import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from swiftfs.errors import ConfigurationError
from swiftfs.objects import ObjectName, ObjectVersion


class Unfinished(Struct, frozen=True):
    """A copy of the version `source` whose segments are below `prefix`.

    If it `may_stand`, its manifest was sent: the target, or an object that it was renamed to since, may name
    the segments.
    """

    source: ObjectVersion
    prefix: ObjectName
    may_stand: bool = False

    def to_json(self) -> str:
        """Return the text for the file."""
        one, prefix = self.source, self.prefix
        values = [one.name.container, one.name.key, one.etag, prefix.container, prefix.key, self.may_stand]
        return json.dumps(values)

    @classmethod
    def from_json(cls, text: str) -> "Unfinished | None":
        """Return what `to_json` wrote, None for other text: a power cut may have left it."""
        try:
            container, key, etag, place, prefix, may_stand = json.loads(text)
            names = ObjectName(container, key), ObjectName(place, prefix)
        except (ValueError, TypeError):
            return None
        return cls(ObjectVersion(names[0], etag), names[1], bool(may_stand))


class CopyRecord:
    """The record of the copy to one target, open and locked; `found` is what an earlier run has left."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self.found = Unfinished.from_json(os.pread(descriptor, 65536, 0).decode(errors="replace"))

    def write(self, unfinished: Unfinished) -> None:
        """Replace the record, also after a power cut; raise `ConfigurationError` if the disk refuses it."""
        data = unfinished.to_json().encode()
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, data, 0)
            os.fdatasync(self._descriptor)
        except OSError as error:
            raise ConfigurationError(f"{self._path}: {error.strerror}") from None
        self.found = unfinished

    def remove(self) -> None:
        """Remove the record: nothing is unfinished any more."""
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Release the lock; an empty record is removed."""
        if self.found is None:
            self.remove()
        os.close(self._descriptor)


class CopyRecords:
    """The records in `folder` of copies within the account `account`."""

    def __init__(self, folder: Path, account: str) -> None:
        self._folder = folder
        self._account = account
        self._folders: list[Path] = []

    def open(self, target: ObjectName) -> CopyRecord:
        """Open and lock the record of `target`; raise `ConfigurationError` if another process has it."""
        path = self._path(target)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            while True:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    # The process that had it may have removed it meanwhile.
                    if _is_at(path, descriptor):
                        return CopyRecord(path, descriptor)
                except BaseException:
                    os.close(descriptor)
                    raise
                os.close(descriptor)
        except BlockingIOError:
            raise ConfigurationError(f"{target}: another 'swiftfs cp' is copying to it") from None
        except OSError as error:
            raise ConfigurationError(f"{self._folder}: {error.strerror}") from None

    def forget(self, target: ObjectName) -> None:
        """Remove the record of a target that was found complete."""
        if self._path(target).exists():
            with suppress(ConfigurationError):  # it is in use
                record = self.open(target)
                record.remove()
                record.close()

    def begin_folder(self, source: ObjectName, target: ObjectName) -> None:
        """Record that a folder is copied to a name that did not exist; raise `ConfigurationError`."""
        path = self._path(source, target)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)
        except OSError as error:
            raise ConfigurationError(f"{path}: {error.strerror}") from None
        self._folders.append(path)

    def resumes_folder(self, source: ObjectName, target: ObjectName) -> bool:
        """Return whether such a copy has begun in an earlier run; then it goes on."""
        path = self._path(source, target)
        if not path.exists():
            return False
        self._folders.append(path)
        return True

    def end_folders(self) -> None:
        """Record that the copies of all folders are complete."""
        for path in self._folders:
            path.unlink(missing_ok=True)

    def _path(self, *names: ObjectName) -> Path:
        text = "\n".join([self._account, *map(str, names)])
        digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
        return self._folder / f"{digest[:32]}.json"


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(descriptor))
