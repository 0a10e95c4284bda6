"""Reads TOML."""

import sys
from typing import Any


def parse_toml(text: str) -> dict[str, Any]:
    """Return the values of a text; raise `ValueError`, whose message names the line."""
    # Most mounts have no such file, and the parser takes as long to load as a request to answer.
    if sys.version_info >= (3, 11):
        import tomllib  # noqa: PLC0415
    else:
        import tomli as tomllib  # noqa: PLC0415
    values: dict[str, Any] = tomllib.loads(text)
    return values
