"""`swiftfs.lazy_dataclass` makes the classes that the standard library makes."""

import copy
import dataclasses
import pickle
from collections.abc import Callable, Mapping
from dataclasses import FrozenInstanceError, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

import swiftfs
from swiftfs import lazy_dataclass

LAZY: Callable[..., Any] = lazy_dataclass.dataclass
PARAMETERS: list[Mapping[str, bool]] = [
    {"frozen": frozen, "slots": slots, "eq": eq, "order": order}
    for frozen in (False, True)
    for slots in (False, True)
    for eq, order in ((True, False), (True, True), (False, False))
]


def classes(make: Callable[..., Any], parameters: Mapping[str, bool]) -> tuple[type, type]:
    """Return a class with all kinds of fields, and one that is derived from it."""

    class First:
        """The base."""

        kind: ClassVar[str] = "a kind"
        name: str
        size: int = 7
        words: list[str] = field(default_factory=list)
        hidden: str = field(default="secret", repr=False, compare=False)

    first = make(**parameters)(First)

    class Second(first):  # type: ignore[misc, valid-type]
        """Derived from it."""

        more: float = 1.5
        later: str = field(init=False)
        made: list[str] = field(init=False, default_factory=list)
        fixed: int = field(init=False, default=3)
        last: str = field(default="", kw_only=True)

        def __post_init__(self) -> None:
            object.__setattr__(self, "later", self.name * 2)

    return first, make(**parameters)(Second)


def outcome(act: Callable[[], object]) -> object:
    """Return what `act` returns, or the type of its error."""
    try:
        return act()
    except Exception as error:  # noqa: BLE001  which one is compared
        return type(error)


def observed(made: type) -> list[object]:
    """Return how instances of a class behave."""
    equal, other = made("a", 1, ["x"], "h"), made("b", hidden="h")
    one = made("a", 1, ["x"], hidden="i")

    def assign(name: str) -> object:
        setattr(one, name, 2)
        return getattr(one, name)

    return [
        repr(one).replace(repr(hex(id(one))), ""),
        one == equal,
        one == other,
        one == "a",
        # Both live at once: a hash may be the address.
        outcome(lambda: len({hash(each) for each in [made("a", 1, words=(), hidden=h) for h in "ab"]})),
        outcome(lambda: one < other),
        outcome(lambda: one >= equal),
        outcome(made),
        outcome(lambda: made("a", unknown=1)),
        outcome(lambda: made("a", 1, [], "", 1.0, "by position")),
        dataclasses.asdict(dataclasses.replace(one, size=9)),
        dataclasses.astuple(copy.deepcopy(one)),
        getattr(made, "__match_args__", None),
        hasattr(one, "__dict__"),
        other.words is made("c").words,
        outcome(lambda: assign("size")),
        # Of a frozen class with slots, the standard one raises an unrelated error in some releases.
        isinstance(outcome(lambda: assign("absent")), type),
        outcome(lambda: delattr(one, "size")),
    ]


@pytest.mark.parametrize("parameters", PARAMETERS, ids=str)
def test_it_makes_what_the_standard_library_makes(parameters: Mapping[str, bool]) -> None:
    for lazy, standard in zip(
        classes(LAZY, parameters), classes(dataclasses.dataclass, parameters), strict=True
    ):
        assert observed(lazy) == observed(standard)
        assert observed(lazy) == observed(standard)  # now that its methods are compiled


def test_methods_of_the_class_stay() -> None:
    @LAZY(frozen=True, slots=True)
    class Own:
        """With methods of its own."""

        name: str

        def __repr__(self) -> str:
            return "own"

        def __hash__(self) -> int:
            return 5

    one = Own("a")  # type: ignore[call-arg]
    assert (repr(one), hash(one), one) == ("own", 5, Own("a"))  # type: ignore[call-arg]


@LAZY(frozen=True, slots=True)
class Sent:
    """A value that is pickled."""

    name: str
    size: int


def test_values_can_be_pickled() -> None:
    sent = Sent("a", 3)  # type: ignore[call-arg]
    assert pickle.loads(pickle.dumps(sent)) == sent
    with pytest.raises(FrozenInstanceError):
        sent.size = 4


def test_nothing_is_compiled_before_it_is_called() -> None:
    @LAZY(frozen=True, slots=True, order=True)
    class Unused:
        """A value that nobody makes."""

        name: str

    methods = ("__init__", "__repr__", "__eq__", "__hash__", "__lt__")
    assert Unused.__doc__ is not None
    assert {getattr(Unused, name).__code__.co_filename for name in methods} == {lazy_dataclass.__file__}
    Unused("a")  # type: ignore[call-arg]
    assert Unused.__init__.__code__.co_filename != lazy_dataclass.__file__
    assert Unused.__eq__.__code__.co_filename == lazy_dataclass.__file__


def test_the_program_uses_it() -> None:
    """The standard one takes a quarter of the time until a mount answers."""
    folder = Path(swiftfs.__file__).parent
    elsewhere = ("lazy_dataclass.py", "demo/")
    sources = {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*.py")
        if not str(path.relative_to(folder)).startswith(elsewhere)
    }
    assert len(sources) > 100
    eager = {
        name
        for name, text in sources.items()
        if any(
            line.startswith("from dataclasses import ") and "dataclass" in line.split()[3:]
            for line in text.replace(",", " ").splitlines()
        )
    }
    assert eager == set()
