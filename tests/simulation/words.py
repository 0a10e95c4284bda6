"""Describes the contents of files in a few words."""

import re

ZEROS, REPEATED = re.compile(rb"\0+"), re.compile(rb"(\S+ )\1+")


def describe_bytes(body: bytes | None) -> str:
    """Describe bytes in a few words; equal parts next to each other are named once."""
    if body is None:
        return "a folder"
    # By regular expressions: there may be as many words as a file has bytes.
    once = REPEATED.sub(rb"\1", ZEROS.sub(b" 0 ", body) + b" ")
    parts = [part.decode(errors="replace")[:24] for part in once.split()]
    parts = [part for number, part in enumerate(parts) if not number or part != parts[number - 1]]
    words = parts if len(parts) <= 12 else [*parts[:6], "...", *parts[-5:]]
    return f"{len(body)} bytes {' '.join(words)!r}"
