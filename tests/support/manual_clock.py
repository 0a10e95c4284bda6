"""A clock that a test sets, for all code in its process."""

from swiftfs.concurrency import Runtime


class ManualClock(Runtime):
    """Monotonic time, in seconds, that stands still until a test changes `now`."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now
