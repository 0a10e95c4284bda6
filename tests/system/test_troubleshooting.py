"""Troubleshooting.md explains every message with which a command can fail."""

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from support.troubleshooting import PLACES, quoted_lines

PACKAGE = Path(__file__).parents[2] / "swiftfs"

FOLDERS = ("cli", "config", "control", "demo", "fuse", "maintenance", "service", "store")
FILES = ("errors.py", "paths.py")

ERRORS = {
    "ConfigurationError",
    "SwiftfsError",
    "OneLineError",
    "DeadMount",
    "NotYours",
    "AccessDenied",
    "LoginRefused",
    "Unavailable",
    "NotSwift",
    "StoreError",
    "ForeignRedirect",
    "UsageError",
    "BadParameter",
    "Occupied",
    "complain",
}
"""What makes a message for users."""

OF_REQUESTS = ("store/wire", "store/deletion.py", "store/error_map.py", "store/foreign_manifests.py")
"""Modules whose errors are the REASON of other messages."""

HOLE = "\0"
"""What an f-string fills in."""

LEAST_LETTERS = 8
"""A message with fewer letters of its own only passes on another one."""


def messages() -> Iterator[tuple[str, str]]:
    """Yield each module and its messages."""
    files = [path for folder in FOLDERS for path in (PACKAGE / folder).rglob("*.py")]
    for path in [*files, *(PACKAGE / name for name in FILES)]:
        module = str(path.relative_to(PACKAGE))
        if module.startswith(OF_REQUESTS):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args and _name(node.func) in ERRORS:
                text = _text(node.args[0])
                if letters(text) >= LEAST_LETTERS:
                    yield module, text


def _name(function: ast.expr) -> str:
    return getattr(function, "id", getattr(function, "attr", ""))


def _text(node: ast.expr) -> str:
    """Return a string with a `HOLE` for each value that is filled in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    return HOLE


def is_quoted(message: str, quotations: Sequence[str]) -> bool:
    """Return whether the page has the message, with words in capitals or examples for what is filled in."""
    return any(_agrees(quotation, message) for quotation in quotations)


def _agrees(quotation: str, message: str) -> bool:
    # An example may stand for a hole, and a word in capitals for a hole and the words beside it.
    holes = ".*".join(map(re.escape, message.split(HOLE)))
    places = ".+".join(map(re.escape, re.split(rf"\b(?:{PLACES})\b", quotation)))
    return bool(re.fullmatch(holes, quotation) or re.fullmatch(places, message.replace(HOLE, "?")))


def letters(text: str) -> int:
    """Return how many letters a text has that are not part of a word in capitals."""
    return len(re.sub(r"[^a-z]", "", text))


@pytest.mark.usual
def test_the_page_explains_all_messages() -> None:
    """One test, for its cases would be found anew by each process that runs any test."""
    lines = (line.removeprefix("swiftfs: ") for line in quoted_lines())
    quotations = [line for line in lines if letters(line) >= LEAST_LETTERS]
    found = sorted(set(messages()))
    assert len(found) > 80
    lacking = [f"{message!r} of {module}" for module, message in found if not is_quoted(message, quotations)]
    assert not lacking, f"troubleshooting.md lacks a line for {lacking}"
