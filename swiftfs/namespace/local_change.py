"""A local change of a name, and how it shows in a listing."""

import math
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from swiftfs.namespace.entry import Entry, Shown, unpacked
from swiftfs.namespace.listing import Listing
from swiftfs.paths import escape, unescape

PENDING = math.inf
"""The time of a change that is not in Swift yet: later than every listing."""


class LocalChange(Struct, eq=False, weakref=True):
    """The last change of a name by this mount: what is `shown`, None for deleted, and when it was stored.

    `at` is in monotonic seconds, `PENDING` before it is in Swift. A pending change has replaced `stored`,
    which counts again if Swift refuses it; it is `settled` when Swift has made or refused it. A `moved` entry
    is from a row of its folder's old place. What is `left` was moved, but Swift could not delete it yet.
    A deletion `of_folder` leaves the object that is a file of the folder's name.
    """

    shown: Shown | None
    at: float
    stored: "LocalChange | None" = None
    settled: bool = False
    moved: bool = False
    left: bool = False
    of_folder: bool = False

    @property
    def entry(self) -> Entry | None:
        """The entry, None for deleted."""
        return unpacked(self.shown)

    @property
    def is_file(self) -> bool:
        """Whether anything but a folder is shown."""
        return self.shown is not None and not self.shown.is_directory

    @property
    def is_folder(self) -> bool:
        """Whether a folder is shown."""
        return self.shown is not None and self.shown.is_directory

    @property
    def is_deletion(self) -> bool:
        """Whether an object waits for its deletion, which Swift has neither made nor refused."""
        return self.shown is None and self.at == PENDING and not self.settled

    def in_swift(self) -> "LocalChange | None":
        """Return this change if it is in Swift; else the last one before it that is, or None."""
        return self if self.at != PENDING else self.stored


class Contradiction(Struct, frozen=True):
    """A change of `name` that a newer listing does not show, which has `listed` for it.

    `beside` is the file that the listing shows under the second name of its object: `a%file` of `a`, or the
    reverse.
    """

    name: str
    change: LocalChange
    listed: Entry | None
    beside: Entry | None = None


def agrees(listed: Entry | None, change: LocalChange) -> bool:
    """Return whether a listing that has `listed` shows the change."""
    changed = change.entry
    if change.of_folder:
        return listed is None or not listed.is_directory
    if listed is None or changed is None:
        return listed is changed
    if listed.is_directory or changed.is_directory:
        # A folder may be listed because something is in it. That does not show that its marker `d` is there.
        shown = changed.object is None or changed.object.key.endswith("/") or listed.object is not None
        return listed.is_directory == changed.is_directory and shown
    # Two versions may have one size and time, as after `cp -p` or `tar`.
    if listed.etag and changed.etag and listed.etag != changed.etag:
        return False
    # Of a large object the listing's hash is not the ETag.
    if changed.hash == changed.etag != "" and listed.hash != changed.hash:
        return False
    attributes = changed.attributes
    if change.moved and listed.hash == changed.hash:  # without a time of its own it has the copy's
        attributes = replace(attributes, mtime_ns=listed.attributes.mtime_ns)
    return listed.attributes == attributes and listed.object == changed.object


def file_beside(listing: Listing, name: str) -> Entry | None:
    """Return the file that a listing shows under the second name of an object, None if there is none."""
    component, shadowed = unescape(name)
    plain = escape(component)
    if shadowed == listing.lacks_folder(plain):
        beside = listing.known(plain if shadowed else escape(component, shadowed=True))
        return beside if beside is not None and not beside.is_directory else None
    return None


class Places(NamedTuple):
    """Under which of the two names of an object a change and the one before it count, None if not at all."""

    change: str | None
    before: str | None = None

    @classmethod
    def of(cls, name: str, before: LocalChange | None, change: LocalChange, *, of_marker: bool) -> "Places":
        """Return the places of a change of `name`; `of_marker` if it deletes the marker of a folder."""
        if before is None:
            return cls(name)
        if of_marker and before.is_file:  # it has taken the folder's place
            return cls(None, name)
        if not _are_of_two_objects(before, change):
            return cls(name)
        return cls(second_name(name), name) if change.shown is None else cls(name, second_name(name))


def _are_of_two_objects(before: LocalChange, change: LocalChange) -> bool:
    """Return whether one is the deletion of a file, and the other a folder of its name."""
    if change.shown is not None:
        was_folder = before.of_folder or (before.stored is not None and before.stored.is_folder)
        return change.is_folder and before.shown is None and not was_folder
    if not change.is_deletion or change.of_folder or not before.is_folder:
        return False
    folder = before.entry
    return folder is not None and (folder.object is None or folder.object.key.endswith("/"))


def second_name(name: str) -> str:
    """Return the name that an object has beside a folder of its name: `a%file` for `a`."""
    return escape(unescape(name)[0], shadowed=True)


def show(listing: Listing, name: str, change: LocalChange) -> None:
    """Show a change in a listing, in which each object has one name."""
    if change.of_folder:
        hide_folder(listing, name)
        return
    component, shadowed = unescape(name)
    if shadowed:
        _show_beside(listing, escape(component), name, change)
        return
    listing.update(name, change.shown)
    beside = escape(component, shadowed=True)
    # A change of a folder does not say what becomes of the file: if it is deleted, another change does.
    if not change.is_folder and listing.may_have_beside(beside):
        listing.update(beside, None)


def _show_beside(listing: Listing, plain: str, name: str, change: LocalChange) -> None:
    listing.update(name, change.shown)
    # Without the folder the object has the plain name.
    is_pending = change.at == PENDING and not change.settled
    if is_pending and (listed := listing.known(plain)) is not None and not listed.is_directory:
        listing.update(plain, None)


def hide_folder(listing: Listing, name: str) -> None:
    """Do not show a folder in a listing: a file beside it gets its name."""
    listed = listing.known(name)
    if listed is not None and not listed.is_directory:
        return
    beside = second_name(name)
    file = listing.known(beside) if listing.may_have_beside(beside) else None
    listing.update(name, replace(file, name=name) if file is not None else None)
    if file is not None:
        listing.update(beside, None)
