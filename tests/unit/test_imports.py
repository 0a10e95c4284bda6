"""Imports go down only, for every folder and file, and each library is imported by one part only."""

import ast
import functools
import graphlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import swiftfs

PACKAGE = Path(swiftfs.__file__).parent

LAYERS = [
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
"""The layers, from the bottom up. A module is in the layer of the longest name here that begins its own."""

TOP_MODULES = {"__init__", "__main__", *LAYERS[0]}
"""Modules in no folder."""

OWNERS = {
    "swiftclient": "store",
    "keystoneauth1": "store",
    "openstack": "store",
    "requests": "store",
    "urllib3": "store",
    "fuse": "fuse",
    "mfusepy": "fuse",
    "swift": "demo",
    "eventlet": "demo",
    "threading": "concurrency",
    "concurrent": "concurrency",
    "queue": "concurrency",
    "_thread": "concurrency",
}
"""Libraries that only one folder or module imports."""

CLOCKS = {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "sleep"}
"""What only `concurrency.py` imports from `time`: a simulation has a clock of its own."""


MODULES = sorted(PACKAGE.rglob("*.py"))


def layer_of(name: str) -> int:
    """Return the number of a module's layer; raise `LookupError` if it has none."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        for number, names in enumerate(LAYERS):
            if prefix in names:
                return number
    raise LookupError(f"{name} is in no layer")


def module_name(path: Path) -> str:
    """Return a module's name below `swiftfs`, `""` for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@dataclass(frozen=True)
class Facts:
    """What the tests ask about a file; its syntax tree, of which all take 60 MiB, is not kept."""

    has_docstring: bool
    imports: tuple[str, ...]
    """All that it imports, as full names."""
    times: frozenset[str]
    """The names behind `time.`."""


@functools.cache
def facts(path: Path) -> Facts:
    """Read a file."""
    text = path.read_text()
    module = ast.parse(text)
    found = tuple(imports(path, statements(module)))
    times = re.findall(r"\btime\.(\w+)", text) if "time" in found else ()
    return Facts(bool(ast.get_docstring(module)), found, frozenset(times))


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield all statements below a node; to walk through their expressions too takes five times as long."""
    for one in ast.iter_child_nodes(node):
        if not isinstance(one, ast.expr):
            yield one
            yield from statements(one)


def imports(path: Path, nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Yield all that the nodes of a file import."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(path: Path) -> Iterator[str]:
    """Yield all that a file imports from swiftfs, as names below it."""
    for name in facts(path).imports:
        package, _, rest = name.partition(".")
        if package == "swiftfs" and rest not in {"", "__version__"}:
            yield rest


def offences(found: Callable[[Path], object]) -> dict[str, object]:
    """Return what `found` finds in each module; modules without findings are left out."""
    return {str(path): offence for path in MODULES if (offence := found(path))}


def test_imports_go_down() -> None:
    def upward(path: Path) -> list[str]:
        name = module_name(path)
        return [one for one in own_imports(path) if not name or layer_of(one) > layer_of(name)]

    assert offences(upward) == {}


def test_folders_of_one_layer_do_not_import_each_other() -> None:
    def sideways(path: Path) -> list[str]:
        name = module_name(path)
        if "." not in name:
            return []
        folder = name.partition(".")[0]
        return [
            one
            for one in own_imports(path)
            if one.partition(".")[0] != folder and layer_of(one) == layer_of(name)
        ]

    assert offences(sideways) == {}


def test_a_library_has_one_owner() -> None:
    def foreign(path: Path) -> list[str]:
        folder = module_name(path).partition(".")[0]
        return [name for name in facts(path).imports if OWNERS.get(name.partition(".")[0], folder) != folder]

    assert offences(foreign) == {}


def test_there_is_one_clock() -> None:
    def clocks(path: Path) -> set[str]:
        if module_name(path) == "concurrency":
            return set()
        taken = {name.removeprefix("time.") for name in facts(path).imports if name.startswith("time.")}
        return (taken | facts(path).times) & CLOCKS

    assert offences(clocks) == {}


def test_values_are_structs() -> None:
    """The standard library would compile the methods of each at a start. A password hides itself by one."""
    users = {
        module_name(path) for path in MODULES if any("dataclasses" in one for one in facts(path).imports)
    }
    assert {name for name in users if not name.startswith("demo")} == {"store.login"}


def test_a_module_has_a_docstring() -> None:
    assert offences(lambda path: not facts(path).has_docstring) == {}


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


def test_every_module_is_in_a_layer_that_exists() -> None:
    names = {module_name(path) for path in MODULES}
    assert {name for names_of in LAYERS for name in names_of} <= names | {"concurrency"}
    assert {path.stem for path in PACKAGE.glob("*.py")} <= TOP_MODULES
