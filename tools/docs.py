"""Writes the generated man pages and tables of docs/ into the repository: `./dev docs`."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from support import fault_matrix, mount_faults
from swiftfs.cli import app
from swiftfs.config.options import OPTIONS
from tools.man_pages import command_page, helper_page

ROOT = Path(__file__).parents[1]


def pages() -> Mapping[Path, str]:
    """Return the full text of each page, by its path in the repository."""
    reference = Path("docs/reference")
    options = reference / "options.md"
    store_faults, mount_faults_page = reference / "store-faults.md", reference / "mount-faults.md"
    return {
        options: _with_tables(options, {"options": option_table()}),
        store_faults: _with_tables(store_faults, {"fault matrix": fault_matrix.table()}),
        mount_faults_page: _with_tables(mount_faults_page, {"fault matrix of a mount": mount_faults.table()}),
        Path("man/swiftfs.1"): command_page(app.main),
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
    """Yield the pages in the repository that are out of date."""
    for path, text in pages().items():
        file = ROOT / path
        if not file.exists() or file.read_text() != text:
            yield path


def main() -> None:
    """Write every page that is out of date."""
    texts = pages()
    for path in list(stale()):
        (ROOT / path).parent.mkdir(exist_ok=True)
        (ROOT / path).write_text(texts[path])
        print(path)


def _with_tables(page: Path, tables: Mapping[str, str]) -> str:
    """Return a page with current tables, each between the two comments that name it."""
    text = (ROOT / page).read_text()
    for name, table in tables.items():
        begin, end = f"<!-- {name}, made by ./dev docs -->", f"<!-- end of the {name} -->"
        before, rest = text.split(begin)
        text = f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}"
    return text


if __name__ == "__main__":
    main()
