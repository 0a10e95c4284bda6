"""The page troubleshooting.md: the messages that it explains."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "troubleshooting.md"

PLACES = "AUTHURL|URL|SIZE|USER|REASON|NAME|FILE|FOLDER|PATH|PROXY|SOURCE|VALUE|NUMBER"
"""Placeholders in the quotations."""


def quoted_lines() -> list[str]:
    """Return the messages that troubleshooting.md explains."""
    return re.findall(r"^\| `(swiftfs: .+?)`(?: \||, )", PAGE.read_text(), re.MULTILINE)


def quoted(line: str) -> str:
    """Return the quotation of troubleshooting.md that agrees best with `line`."""
    found = [
        text
        for text in quoted_lines()
        if re.fullmatch(".+".join(map(re.escape, re.split(rf"\b(?:{PLACES})\b", text))), line.rstrip("\n"))
    ]
    assert found, f"troubleshooting.md has no line for: {line}"
    return max(found, key=lambda text: len(re.sub(PLACES, "", text)))
