"""A `dataclass` that compiles the methods of a class when they are first called.

The standard one compiles up to six functions for each class while its module is imported. For the classes
of a mount that takes 0.1 s, a quarter of the time until it answers, and most of them are not used by then.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from operator import attrgetter
from types import MemberDescriptorType
from typing import TYPE_CHECKING, Any

__all__ = ["dataclass", "replace"]

_MISSING: Any = dataclasses.MISSING

_ORDER = ("__lt__", "__le__", "__gt__", "__ge__")

if TYPE_CHECKING:
    from dataclasses import dataclass, replace
else:

    def replace(one, /, **changes):
        """Do what `dataclasses.replace` does, in a third of the time; for classes of this module."""
        cls = one.__class__
        names, values = _values(cls)
        return cls(**{**dict(zip(names, values(one), strict=True)), **changes})

    def dataclass(cls=None, /, *, frozen=False, slots=False, eq=True, order=False):
        """Do what `dataclasses.dataclass` does; its other parameters and `InitVar` are not supported."""

        def made(cls):
            return _made(cls, frozen=frozen, slots=slots, eq=eq, order=order)

        return made if cls is None else made(cls)


@cache
def _values(cls: type) -> tuple[Sequence[str], Callable[[Any], Sequence[Any]]]:
    """Return the names of the fields that a class is made of, and what returns their values."""
    names = [one.name for one in dataclasses.fields(cls) if one.init]
    get = attrgetter(*names)
    # `attrgetter` of one name returns the value itself.
    return names, get if len(names) > 1 else lambda one: (get(one),)


def _made(cls: type, *, frozen: bool, slots: bool, eq: bool, order: bool) -> type:
    written = set(cls.__dict__)
    hashes = cls.__dict__.get("__hash__") is not None  # a class that defines only `__eq__` has None
    if not cls.__doc__:
        cls.__doc__ = cls.__name__  # otherwise it would parse and write the signature of `__init__`
    # Without methods: it collects the fields, and makes a class with slots.
    made: Any = dataclasses.dataclass(init=False, repr=False, eq=False, slots=slots)(cls)
    late = ["__init__", "__repr__"]
    if eq:
        late.append("__eq__")
        if frozen and not hashes:
            written.discard("__hash__")
            late.append("__hash__")
        elif not hashes:
            made.__hash__ = None
    if order:
        late += _ORDER
    for name in late:
        if name not in written:
            setattr(made, name, _compiled_later(made, name, frozen))
    if frozen:
        _freeze(made, slots=slots, written=written)
    return made  # type: ignore[no-any-return]


def _compiled_later(cls: type, name: str, frozen: bool) -> Callable[..., Any]:
    """Return a method that replaces itself by the compiled one when it is called."""

    def method(self: object, *args: Any, **kwargs: Any) -> Any:
        compiled = _init(cls, frozen) if name == "__init__" else _method(cls, name)
        setattr(cls, name, compiled)
        return compiled(self, *args, **kwargs)

    return method


def _method(cls: type, name: str) -> Callable[..., Any]:
    """Return a method other than `__init__` as the standard library writes it for a class of these fields."""
    model = dataclasses.make_dataclass(
        cls.__name__,
        [
            (one.name, object, dataclasses.field(repr=one.repr, hash=one.hash, compare=one.compare))
            for one in dataclasses.fields(cls)
        ],
        init=False,
        repr=name == "__repr__",
        eq=name == "__eq__" or name in _ORDER,
        order=name in _ORDER,
        unsafe_hash=name == "__hash__",
    )
    method: Callable[..., Any] = model.__dict__[name]
    return method


def _init(cls: type, frozen: bool) -> Callable[..., Any]:
    """Return `__init__`. It is written here, as the standard library compiles more for a frozen class."""
    known: dict[str, Any] = {"_set": object.__setattr__, "_missing": _MISSING}
    fields = sorted(dataclasses.fields(cls), key=lambda one: bool(one.kw_only))
    words, lines = ["self"], []
    for one in fields:
        if one.kw_only and one.init and "*" not in words:
            words.append("*")
        word, value = _parameter(one, known)
        if one.init:
            words.append(word)
        elif word == one.name:
            continue  # it has no default, so somebody assigns it later
        slot = getattr(cls, one.name, None)
        if frozen and isinstance(slot, MemberDescriptorType):  # `_set` would look it up each time
            known[f"_set_{one.name}"] = slot.__set__
            lines.append(f" _set_{one.name}(self, {value})")
        else:
            lines.append(f" _set(self, {one.name!r}, {value})" if frozen else f" self.{one.name} = {value}")
    if hasattr(cls, "__post_init__"):
        lines.append(" self.__post_init__()")
    exec(f"def __init__({', '.join(words)}):\n" + ("\n".join(lines) or " pass"), known)
    method: Callable[..., Any] = known["__init__"]
    method.__qualname__ = f"{cls.__qualname__}.__init__"
    method.__module__ = cls.__module__
    return method


def _parameter(one: "dataclasses.Field[Any]", known: dict[str, Any]) -> tuple[str, str]:
    """Return a field as a parameter of `__init__`, and what is assigned; put what they name into `known`."""
    name = one.name
    if one.default_factory is not _MISSING:
        known[f"_make_{name}"] = one.default_factory
        made = f"_make_{name}()"
        return f"{name}=_missing", f"{made} if {name} is _missing else {name}" if one.init else made
    if one.default is not _MISSING:
        known[f"_default_{name}"] = one.default
        return f"{name}=_default_{name}", name if one.init else f"_default_{name}"
    return name, name


def _freeze(cls: Any, *, slots: bool, written: set[str]) -> None:
    """Let instances refuse changes."""
    names = frozenset(one.name for one in dataclasses.fields(cls))

    def refuses(self: object, name: str) -> bool:
        return type(self) is cls or name in names

    def set_attribute(self: object, name: str, value: object) -> None:
        if refuses(self, name):
            raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")
        super(cls, self).__setattr__(name, value)

    def delete_attribute(self: object, name: str) -> None:
        if refuses(self, name):
            raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
        super(cls, self).__delattr__(name)

    more: Mapping[str, Any] = {"__getstate__": _state, "__setstate__": _set_state} if slots else {}
    for name, method in {"__setattr__": set_attribute, "__delattr__": delete_attribute, **more}.items():
        if name not in written:
            setattr(cls, name, method)


def _state(self: Any) -> list[Any]:
    return [getattr(self, one.name) for one in dataclasses.fields(self)]


def _set_state(self: Any, state: list[Any]) -> None:
    # `__setattr__` refuses.
    for one, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, one.name, value)
