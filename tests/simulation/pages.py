"""What a power cut, or a kill within a change, leaves of a file: pages of several of its states."""

from collections.abc import Iterable

PAGE = 4096


def is_mixture(body: bytes, bodies: Iterable[bytes]) -> bool:
    """Return whether bytes are those of one state of a file, or each page of one, with the size of one."""
    return any(len(one) == len(body) for one in bodies) and all(
        any(one[at : at + PAGE] == body[at : at + PAGE] for one in _sized(bodies, len(body)))
        for at in range(0, len(body), PAGE)
    )


def _sized(bodies: Iterable[bytes], size: int) -> list[bytes]:
    return [one[:size].ljust(size, b"\0") for one in bodies]
