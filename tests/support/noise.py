"""Pseudo-random bytes for the contents of files."""

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes


def noise(size: int, seed: int = 0) -> bytes:
    """Return `size` bytes without repetitions, the same for the same seed: the first ones of all others."""
    return LARGE[:size] if not seed and size <= len(LARGE) else _encrypted(size, seed)


def _encrypted(size: int, seed: int) -> bytes:
    # Eight times as fast as `random`, which took a tenth of the time of all fast tests.
    cipher = Cipher(algorithms.AES(seed.to_bytes(16, "big")), modes.CTR(bytes(16)))
    return cipher.encryptor().update(bytes(size))


LARGE = _encrypted(4 * 1024 * 1024, 0)
OLD, NEW, NEWER = noise(3 * 1024 * 1024), noise(3 * 1024 * 1024 - 5, 1), noise(3 * 1024 * 1024, 2)
"""Bodies that the modules of tests share: each would take memory in each worker."""


def repeated_noise(size: int) -> bytes:
    """Return `size` bytes, made quickly; they repeat with a period that is no multiple of a block."""
    period = noise(2**20 + 77)
    whole, rest = divmod(size, len(period))
    return b"".join([*[period] * whole, period[:rest]])
