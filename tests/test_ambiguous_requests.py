"""What is recorded of lost requests, and what of that the next mount is told."""

from concurrent.futures import ThreadPoolExecutor

from deadlines import within

from swiftfs.objects import ObjectName
from swiftfs.store.ambiguous import GONE, Ambiguity, AmbiguousRequests, Effect

NAME = ObjectName("box", "file")
STORED = Effect("put", "an etag")


class Recorded:
    """Requests of one mount, and the rows that its journal would hold."""

    def __init__(self) -> None:
        self.requests = AmbiguousRequests()
        self.rows: dict[ObjectName, Ambiguity] = {}

    def save(self) -> None:
        for name, found in self.requests.take_unsaved().items():
            if found is None:
                self.rows.pop(name, None)
            else:
                self.rows[name] = found

    def done(self, effect: Effect) -> None:
        self.requests.done(NAME, lambda: effect)
        self.save()


def test_a_suspected_deletion_is_not_saved_before_it_can_harm() -> None:
    recorded = Recorded()
    recorded.requests.suspect([NAME])
    recorded.done(GONE)
    assert recorded.rows == {}
    recorded.done(STORED)
    assert recorded.rows[NAME].last == STORED
    assert recorded.rows[NAME].is_dangerous


def test_a_file_that_is_deleted_again_is_not_remembered_as_stored() -> None:
    """The next mount would take it for the victim of the first deletion, and store it anew."""
    recorded = Recorded()
    recorded.requests.suspect([NAME])
    for effect in (GONE, STORED, GONE):
        recorded.done(effect)
    assert recorded.rows[NAME].last == GONE
    assert not recorded.rows[NAME].is_dangerous
    again = AmbiguousRequests()
    again.load(recorded.rows.values())
    assert not again.all()[0].is_dangerous


def test_a_wake_before_the_wait_is_not_lost() -> None:
    requests = AmbiguousRequests()
    requests.wake()
    requests.wait(None)  # it would last for ever
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(requests.wait, None)
        requests.wake()
        waiting.result(within(60))
