"""Large files for tests of reading ahead."""

from support.cache_rig import MIB, noise


def large(size: int) -> bytes:
    """Return so many bytes, which repeat with a period that is no multiple of a block."""
    period = noise(MIB + 77)
    whole, rest = divmod(size, len(period))
    return b"".join([*[period] * whole, period[:rest]])
