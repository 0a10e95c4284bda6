"""`swiftfs` with other time limits: `python mount_with_time_limits.py SILENCE DEADLINE ARGS…`, in seconds.

A request waits at most SILENCE for its answer, and a system call at most DEADLINE for its requests. During an
outage pending changes are still sent in parallel, so that the failures of one file do not delay others.
"""

import sys
from functools import partial
from typing import Any

from swiftfs import concurrency
from swiftfs.cli import app
from swiftfs.journal.outcomes import Outcomes
from swiftfs.service import mount
from swiftfs.store import connect as connecting
from swiftfs.store.retry import RetryPolicy
from swiftfs.store.swift_store import SwiftStore


def serve(silence: str, deadline: str, *arguments: str) -> None:
    """Run the command with these limits, in seconds."""
    policy = RetryPolicy(deadline=float(deadline), first_pause=0.1, longest_pause=0.3)
    patched: Any = (connecting, mount, Outcomes)
    patched[0].SwiftStore = partial(SwiftStore, longest_silence=float(silence))
    patched[1].connect = partial(connecting.connect, policy=policy)
    patched[2]._note_outage = lambda *_: None
    app.main(list(arguments))


if __name__ == "__main__":
    concurrency.check()
    serve(*sys.argv[1:])
