"""The pages that a table in the code decides are current."""

from pathlib import Path

from swiftfs.config import describe_options

DOCS = Path(__file__).parents[1] / "docs"


def test_the_table_of_options_is_current() -> None:
    rows = [f"| `{name}` | {default} | {text} |" for name, default, text in describe_options()]
    table = "\n".join(["| option | default | meaning |", "|---|---|---|", *rows])
    assert table in (DOCS / "configuration.md").read_text(), f"put this there:\n{table}"
