"""Processes of other users."""

import os
from collections.abc import Callable

import pytest

from swiftfs.errors import ConfigurationError

NOBODY = 65534

as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root may act for other users")


def refused_to_nobody(call: Callable[[], object]) -> str:
    """Return the message with which a call fails for another user, "" if it does not.

    It runs in a fork, not as a command: other users may not be able to read this Python.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.setgroups([])
        os.setuid(NOBODY)
        try:
            call()
        except ConfigurationError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as pipe:
        return pipe.read()
