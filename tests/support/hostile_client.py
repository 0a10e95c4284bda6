"""A client of a hostile server: `python hostile_client.py CALL NAME=VALUE…`, the credentials as `NAME=VALUE`.

It prints the most memory that it has held, in KiB, and then what came of the call, on a line each.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

from swiftfs.errors import SwiftfsError
from swiftfs.objects import ObjectName
from swiftfs.store.auth import open_account
from swiftfs.store.protocol import ObjectStore
from swiftfs.store.swift_store import SwiftStore

NAME = ObjectName("c", "o")

CALLS: dict[str, Callable[[ObjectStore], object]] = {
    "login": lambda _store: "logged in",  # before any call
    "info": lambda store: store.limits().listing,
    "list": lambda store: len(store.list_page("c").rows),
    "containers": lambda store: len(store.list_containers().subdirs),
    "manifest": lambda store: len(store.manifest(NAME).segments),
    "head": lambda store: store.head(NAME).size,
    "get": lambda store: store.get(NAME, lambda *_: None, length=100).size,
    "delete many": lambda store: list(store.delete_many([NAME, ObjectName("c", "p")]).values()),
}


def main(call: str, variables: dict[str, str]) -> None:
    """Log in, make the call, and print the result."""
    try:
        account = open_account(variables)
        account.token()
        store = SwiftStore(account)  # without retries, which would last 25 seconds
        said = repr(CALLS[call](store))
        store.close()
    except SwiftfsError as error:
        said = str(error)
    # Not getrusage(2), which counts the process that this one was forked from.
    print(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0])
    print(said[:1000])


if __name__ == "__main__":
    main(sys.argv[1], dict(word.split("=", 1) for word in sys.argv[2:]))
