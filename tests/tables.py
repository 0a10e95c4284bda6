"""The tables of docs/durability.md that are made from the code; as a program it writes them."""

from pathlib import Path

import fault_matrix
import mount_faults

DOCUMENT = Path(__file__).parents[1] / "docs" / "durability.md"


def with_tables(text: str) -> str:
    """Return the document with its tables as they are now."""
    text = _put_between(text, "fault matrix", fault_matrix.table())
    return _put_between(text, "fault matrix of a mount", mount_faults.table())


def _put_between(text: str, what: str, content: str) -> str:
    begin, end = f"<!-- {what}, made by ./dev tables -->", f"<!-- end of the {what} -->"
    before, rest = text.split(begin)
    return f"{before}{begin}\n{content}\n{end}{rest.split(end)[1]}"


if __name__ == "__main__":
    DOCUMENT.write_text(with_tables(DOCUMENT.read_text()))
