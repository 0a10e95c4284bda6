"""The house has floors, and imports go down only."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import swiftfs

PACKAGE = Path(swiftfs.__file__).parent

FLOORS = {
    **dict.fromkeys(["errors", "model", "naming", "attributes", "config", "concurrency"], 0),
    **dict.fromkeys(["store", "database"], 1),
    **dict.fromkeys(["namespace", "content"], 2),
    "journal": 2,
    **dict.fromkeys(["filesystem", "files", "folders", "handles", "metadata", "moves", "usage"], 3),
    **dict.fromkeys(["barrier", "prefetch", "promises", "readers", "rooms"], 3),
    "fuse": 4,
}
"""What is not named here is on floor 5: commands, the life cycle, and the demo beside the house."""

NEIGHBOURS = {("journal", "namespace"), ("journal", "content")}
"""The only imports between packages of one floor."""

OWNERS = {
    "swiftclient": "store",
    "keystoneauth1": "store",
    "openstack": "store",
    "requests": "store",
    "urllib3": "store",
    "fuse": "fuse",
    "swift": "demo",
    "eventlet": "demo",
    "threading": "concurrency",
    "concurrent": "concurrency",
    "queue": "concurrency",
    "_thread": "concurrency",
}
"""Libraries that a single package or module knows of."""

CLOCKS = {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "sleep"}
"""What only `concurrency.py` takes from `time`: a simulation has its own."""

MODULES = sorted(PACKAGE.rglob("*.py"))


def floor(part: str) -> int:
    return FLOORS.get(part, 5)


def part_of(module: str) -> str:
    """Return a module's package or name below `swiftfs`."""
    return [*module.split("."), ""][1]


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[str]:
    """Yield what a file imports, wherever in it, as full module names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def goes_down(importer: str, imported: str) -> bool:
    """Say whether a part of the house may import another one."""
    if imported in {importer, "__version__"}:
        return True
    if floor(importer) != floor(imported):
        return floor(importer) > floor(imported)
    return floor(importer) in {0, 3, 5} or (importer, imported) in NEIGHBOURS


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_go_down(path: Path) -> None:
    part = part_of(module_name(path))
    wrong = [
        name for name in imports(path) if name.startswith("swiftfs.") and not goes_down(part, part_of(name))
    ]
    assert wrong == []


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_library_has_one_owner(path: Path) -> None:
    part = part_of(module_name(path))
    wrong = [name for name in imports(path) if OWNERS.get(name.partition(".")[0], part) != part]
    assert wrong == []


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_there_is_one_clock(path: Path) -> None:
    if module_name(path) == "swiftfs.concurrency":
        return
    used = {
        node.attr
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "time"
    }
    taken = {name.removeprefix("time.") for name in imports(path) if name.startswith("time.")}
    assert (used | taken) & CLOCKS == set()


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_every_floor_exists() -> None:
    parts = {part_of(module_name(path)) for path in MODULES}
    assert set(FLOORS) <= parts
    assert {"store", "namespace", "content", "journal", "fuse", "demo"} <= parts
