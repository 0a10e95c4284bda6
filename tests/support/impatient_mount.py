"""`swiftfs` with other patience: `python impatient_mount.py SILENCE DEADLINE ARGS…`, both in seconds.

No request waits longer for its answer than SILENCE, and no system call longer for its requests than DEADLINE.
What waits for the server is not sent one at a time, so that failures of one file do not hold up others.
"""

import sys
from functools import partial
from typing import Any

from swiftfs import concurrency, store
from swiftfs.cli import app
from swiftfs.journal.outcomes import Outcomes
from swiftfs.service import mount


def main(silence: float, deadline: float, arguments: list[str]) -> None:
    """Run the command."""
    policy = store.RetryPolicy(deadline=deadline, first_pause=0.1, longest_pause=0.3)
    patched: Any = (store, mount, Outcomes)
    patched[0].SwiftStore = partial(store.SwiftStore, longest_silence=silence)
    patched[1].connect = partial(store.connect, policy=policy)
    patched[2]._note_outage = lambda *_: None
    concurrency.check()
    app.main(arguments)


if __name__ == "__main__":
    main(float(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
