"""Pseudo-random bytes for the contents of files."""

import random


def noise(size: int, seed: int = 0) -> bytes:
    """Return `size` bytes without repetitions, the same for the same seed."""
    return random.Random(seed).randbytes(size)


def repeated_noise(size: int) -> bytes:
    """Return at least `size` bytes, made quickly: 1 MiB + 77 bytes of noise, repeated."""
    return noise(2**20 + 77) * (size // 2**20 + 1)
