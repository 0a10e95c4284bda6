"""Pseudo-random bytes for the contents of files."""

import random


def noise(size: int, seed: int = 0) -> bytes:
    """Return `size` bytes without repetitions, the same for the same seed."""
    return random.Random(seed).randbytes(size)


def repeated_noise(size: int) -> bytes:
    """Return `size` bytes, made quickly; they repeat with a period that is no multiple of a block."""
    period = noise(2**20 + 77)
    whole, rest = divmod(size, len(period))
    return b"".join([*[period] * whole, period[:rest]])
