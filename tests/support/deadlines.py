"""Time limits that grow with the machine's load, so that a busy machine fails no test."""

import os

PATIENCE = float(os.environ.get("SWIFTFS_TEST_PATIENCE", "1"))
"""How many times slower than two idle cores this machine is when it is idle."""


def within(seconds: float) -> float:
    """Return the time limit, in seconds, for something that takes an idle machine up to `seconds`."""
    # Up to one running program per core nothing slows down; above that they share the cores.
    crowd = os.getloadavg()[0] / (os.cpu_count() or 1)
    return seconds * PATIENCE * max(1.0, crowd)
