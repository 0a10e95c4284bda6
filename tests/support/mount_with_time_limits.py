"""`swiftfs` with other time limits: `python mount_with_time_limits.py SILENCE DEADLINE ARGS…`, in seconds.

A request waits at most SILENCE for its answer, and a system call at most DEADLINE for its requests. During an
outage pending changes are still sent in parallel, so that the failures of one file do not delay others.
"""

import sys
from functools import partial
from typing import Any

from swiftfs import concurrency, store
from swiftfs.cli import app
from swiftfs.journal.outcomes import Outcomes
from swiftfs.service import mount


def serve(silence: str, deadline: str, *arguments: str) -> None:
    """Run the command with these limits, in seconds."""
    policy = store.RetryPolicy(deadline=float(deadline), first_pause=0.1, longest_pause=0.3)
    patched: Any = (store, mount, Outcomes)
    patched[0].SwiftStore = partial(store.SwiftStore, longest_silence=float(silence))
    patched[1].connect = partial(store.connect, policy=policy)
    patched[2]._note_outage = lambda *_: None
    app.main(list(arguments))


if __name__ == "__main__":
    concurrency.check()
    serve(*sys.argv[1:])
