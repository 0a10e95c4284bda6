"""Reads TOML."""

import re
import sys
from typing import Any

_PLACE = re.compile(r" \(at line (\d+), column \d+\)$")
"""How a message of the parser ends."""

_PAIR = re.compile(r"\s*([^=\"'\s]+)\s*=\s*([^\s\"'\[{].*)")
"""A key, and a value that is neither a text nor a table nor an array."""


def parse_toml(text: str) -> dict[str, Any]:
    """Return the values of a text; raise `ValueError`, whose message names the line."""
    # Most mounts have no such file, and the parser takes as long to load as a request to answer.
    if sys.version_info >= (3, 11):
        import tomllib  # noqa: PLC0415
    else:
        import tomli as tomllib  # noqa: PLC0415
    try:
        values: dict[str, Any] = tomllib.loads(text)
    except ValueError as error:
        raise ValueError(_in_words(str(error), text)) from None
    return values


def _in_words(message: str, text: str) -> str:
    """Return what is wrong, where the parser's own words do not say how a key and a value are written."""
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
