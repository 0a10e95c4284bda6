"""Imports go down only, for every folder and every file, and each library has one owner."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import swiftfs

PACKAGE = Path(swiftfs.__file__).parent

FLOORS = [
    ["errors", "objects", "paths", "attributes", "sqlite", "concurrency"],
    ["store.protocol", "store.request", "store.error_map"],
    ["store.wire"],
    ["store"],
    ["config"],
    ["namespace", "filecache"],
    ["journal"],
    ["posix", "fuse"],
    ["control", "maintenance"],
    ["service"],
    ["demo"],
    ["cli"],
    ["__main__"],
]
"""From the bottom up. A module is on the floor of the longest name here that its own begins with."""

LOOSE = {"__init__", "__main__", "errors", "objects", "paths", "attributes", "sqlite", "concurrency"}
"""All that lies in no folder."""

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
"""Libraries that a single folder or module knows of."""

CLOCKS = {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "sleep"}
"""What only `concurrency.py` takes from `time`: a simulation has its own."""


MODULES = sorted(PACKAGE.rglob("*.py"))


def floor(name: str) -> int:
    """Return the floor of a module, or of something in one; raise `LookupError` when it has none."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        for number, names in enumerate(FLOORS):
            if prefix in names:
                return number
    raise LookupError(f"{name} is on no floor")


def module_name(path: Path) -> str:
    """Return a module's name below `swiftfs`, `""` for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[str]:
    """Yield what a file imports, wherever in it, as full names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(path: Path) -> Iterator[str]:
    """Yield what a file imports of swiftfs, as names below it."""
    for name in imports(path):
        package, _, rest = name.partition(".")
        if package == "swiftfs" and rest not in {"", "__version__"}:
            yield rest


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_go_down(path: Path) -> None:
    name = module_name(path)
    wrong = [one for one in own_imports(path) if not name or floor(one) > floor(name)]
    assert wrong == []


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_folders_of_one_floor_do_not_know_each_other(path: Path) -> None:
    name = module_name(path)
    if "." not in name:
        return
    folder = name.partition(".")[0]
    wrong = [
        one for one in own_imports(path) if one.partition(".")[0] != folder and floor(one) == floor(name)
    ]
    assert wrong == []


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_library_has_one_owner(path: Path) -> None:
    folder = module_name(path).partition(".")[0]
    wrong = [name for name in imports(path) if OWNERS.get(name.partition(".")[0], folder) != folder]
    assert wrong == []


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_there_is_one_clock(path: Path) -> None:
    if module_name(path) == "concurrency":
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


def test_no_modules_import_each_other() -> None:
    names = {module_name(path) for path in MODULES}
    graph = {
        module_name(path): {
            found for one in own_imports(path) for found in (one, one.rpartition(".")[0]) if found in names
        }
        for path in MODULES
        if path.name != "__init__.py"
    }
    graphlib.TopologicalSorter(graph).prepare()


def test_every_floor_exists_and_nothing_lies_loose() -> None:
    names = {module_name(path) for path in MODULES}
    assert {name for names_of in FLOORS for name in names_of} <= names | {"concurrency"}
    assert {path.stem for path in PACKAGE.glob("*.py")} <= LOOSE
