"""Says what is wrong in a TOML file, where the parser does not say how a key and a value are written."""

import re

_PLACE = re.compile(r" \(at line (\d+), column \d+\)$")
"""How a message of the parser ends."""

_PAIR = re.compile(r"\s*([^=\"'\s]+)\s*=\s*([^\s\"'\[{].*)")
"""A key, and a value that is neither a text nor a table nor an array."""


def in_words(message: str, text: str) -> str:
    """Return the parser's message about a text, or a clearer one; both name the line."""
    place = _PLACE.search(message)
    if place is None:
        return message
    pair = _PAIR.fullmatch(text.split("\n")[int(place[1]) - 1].rstrip("\r"))
    if pair is None:
        return message
    where = f"at line {place[1]}"
    if message.startswith("Cannot overwrite"):
        return f"{pair[1]} is set a second time {where}"
    return f'write the value in quotes {where}, as in {pair[1]} = "…"'
