"""Entries that a listing did not describe whole: they are asked for when the first of them is wanted."""

from collections.abc import Mapping
from dataclasses import replace

from swiftfs.concurrency import Future, Lock
from swiftfs.errors import Ghost, NotFound
from swiftfs.namespace.entry import Defaults, Entry, with_details
from swiftfs.namespace.head_fetcher import Answer, Details, key_of
from swiftfs.namespace.listing import Listing, Unasked
from swiftfs.namespace.listing_fetcher import Listings
from swiftfs.objects import ObjectInfo
from swiftfs.paths import Folder


class Completion:
    """Puts what HEADs say into the listings. `lock` is the namespace's, and guards the listings."""

    def __init__(
        self,
        details: Details,
        defaults: Defaults,
        lock: Lock,
        listings: Listings,
    ) -> None:
        self._details = details
        self._defaults = defaults
        self._lock = lock
        self._listings = listings

    def recall(self, listings: Mapping[Folder, Listing], unasked: Unasked) -> None:
        """Add what earlier HEADs said; it is still true where the listing's row is the same."""
        with self._lock:
            known = {
                where: entry
                for where in unasked
                if where[0] in listings
                and (entry := listings[where[0]].known(where[1])) is not None
                and not entry.asked  # our own change lies over what the listing said
            }
        if not known:
            return
        infos = self._details.recall_many(list(known.values()))
        with self._lock:
            for where, entry in known.items():
                if (info := infos.get(key_of(entry))) is not None:
                    listings[where[0]].refine(entry, with_details(entry, info, self._defaults))
                    unasked.pop(where, None)

    def complete(self, listing: Listing, entry: Entry) -> Entry | None:
        """Return `entry` with what a HEAD says, None when it is gone; begin to ask for those that follow."""
        wanted = self._ask(listing, entry)
        for other, sibling in self._next_unasked(listing):
            self._ask(other, sibling)
        if isinstance(wanted, Entry):
            return wanted
        try:
            return self._with_answer(entry, wanted.result())
        except NotFound as error:
            return self._with_answer(entry, error)

    def _next_unasked(self, listing: Listing) -> list[tuple[Listing, Entry]]:
        with self._lock:
            count = min(self._details.room(), len(listing.unasked))
            places = [listing.unasked.popitem(last=False)[0] for _ in range(count)]
            found = [
                (other, other.known(name)) for folder, name in places if (other := self._listings.get(folder))
            ]
        return [(other, entry) for other, entry in found if entry is not None and not entry.asked]

    def _ask(self, listing: Listing, entry: Entry) -> Future[ObjectInfo] | Entry:
        """Begin to ask about an entry; return what the listing knows by now where an answer has come."""

        def refine(answer: Answer) -> None:
            better = self._with_answer(entry, answer)
            with self._lock:
                listing.refine(entry, better)

        with self._lock:  # between this look and the question no answer can be taken in
            current = listing.known(entry.name)
            if current is not None and current.asked:
                return current
            return self._details.ask(entry, refine)

    def _with_answer(self, entry: Entry, answer: Answer) -> Entry | None:
        if not isinstance(answer, NotFound):
            return with_details(entry, answer, self._defaults)
        if isinstance(answer, Ghost):  # it must be found, or nobody can delete it
            return replace(entry, asked=True, missing=True)
        return replace(entry, object=None, asked=True) if entry.is_directory else None
