"""Time limits that a busy machine stretches: the one place where tests know how fast the machine is."""

import os

PATIENCE = float(os.environ.get("SWIFTFS_TEST_PATIENCE", "1"))
"""How many times slower than two idle cores the machine is at best."""


def within(seconds: float) -> float:
    """Return the limit, at the load of this moment, for what an idle machine does in so many seconds."""
    # As many programs as there are cores harm nobody; of more, each gets its share of them.
    crowd = os.getloadavg()[0] / (os.cpu_count() or 1)
    return seconds * PATIENCE * max(1.0, crowd)
