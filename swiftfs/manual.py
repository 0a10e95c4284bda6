"""The pages that the table of options decides: `python -m swiftfs.manual` writes them into the repository."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from swiftfs import cli
from swiftfs.config import OPTIONS
from swiftfs.manpage import command_page, helper_page

ROOT = Path(__file__).parents[1]

BEGIN, END = "<!-- written by python -m swiftfs.manual -->", "<!-- end -->"


def pages() -> Mapping[Path, str]:
    """Return the whole text of each page, by its path in the repository."""
    configuration = Path("docs/configuration.md")
    return {
        configuration: _between((ROOT / configuration).read_text(), option_table()),
        Path("man/swiftfs.1"): command_page(cli.main),
        Path("man/mount.swiftfs.8"): helper_page(),
    }


def option_table() -> str:
    """Return the options as a table in Markdown."""
    rows = [
        f"| `{option.name}` | {option.kind.word.replace('|', ', ')} | {option.default} | {option.help} |"
        for option in OPTIONS.values()
    ]
    return "\n".join(["| option | value | default | meaning |", "|---|---|---|---|", *rows])


def stale() -> Iterator[Path]:
    """Yield the pages in the repository that are not what `pages` says."""
    for path, text in pages().items():
        file = ROOT / path
        if not file.exists() or file.read_text() != text:
            yield path


def main() -> None:
    """Write every page that is stale."""
    texts = pages()
    for path in list(stale()):
        (ROOT / path).parent.mkdir(exist_ok=True)
        (ROOT / path).write_text(texts[path])
        print(path)


def _between(page: str, text: str) -> str:
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    main()
