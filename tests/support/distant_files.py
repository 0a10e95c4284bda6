"""Large files for tests of reading ahead."""

from support.cache_rig import MIB, noise


def large(size: int) -> bytes:
    return noise(MIB + 77) * (size // MIB + 1)
