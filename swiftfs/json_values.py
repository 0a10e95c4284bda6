"""Dataclasses as JSON, and back, by their annotations: the journal's records, and a mount's status.

A record is written for each close(2), and 100,000 may be read when a mount starts.
"""

import base64
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from json.encoder import encode_basestring_ascii as write_text
from operator import attrgetter
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

Write = Callable[[Any], str]
"""Returns a value as JSON."""

Read = Callable[[Any], Any]
"""Returns the value of what `json.loads` has made of its JSON; raises `ValueError` or another error."""


_DECODER = json.JSONDecoder()


class JsonValues:
    """Writes and reads values.

    A dataclass is an object of its fields; those with their default are left out, unless they are `always`
    written. A field has its name as key, or another one by `keys`. A union of dataclasses is told apart by
    their `kinds`, the last key of each object. `others` are types that are no dataclasses. The texts of the
    fields `repeated` are the same in most values: one string serves all. With `skip_unknown` a key that
    belongs to no field is no error.
    """

    def __init__(
        self,
        *,
        keys: Mapping[type, Mapping[str, str]] | None = None,
        kinds: Mapping[type, str] | None = None,
        others: Mapping[type, tuple[Write, Read]] | None = None,
        always: Mapping[type, str] | None = None,
        repeated: Mapping[type, str] | None = None,
        skip_unknown: bool = False,
    ) -> None:
        self._keys, self._kinds = keys or {}, kinds or {}
        self._always, self._repeated = always or {}, repeated or {}
        self._skip_unknown = skip_unknown
        self._known: dict[Any, tuple[Write, Read]] = {**_PLAIN, **(others or {})}

    def write(self, value: object, kind: Any) -> str:
        """Return a value of this type as a line of JSON."""
        return self._of(kind)[0](value)

    def read(self, text: str, kind: Any) -> Any:
        """Return the value that `write` wrote; raise `ValueError` for anything else."""
        raw, end = _DECODER.raw_decode(text)
        if end != len(text):
            raise ValueError("there is more behind it")
        return self.structure(raw, kind)

    def structure(self, raw: object, kind: Any) -> Any:
        """Return the value of what `json.loads` has made of its text; errors as `read`."""
        try:
            return self._of(kind)[1](raw)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{error!r}") from error

    def _of(self, kind: Any) -> tuple[Write, Read]:
        """Return what writes and reads a type; it is made at the first use."""
        if (found := self._known.get(kind)) is None:
            found = self._known[kind] = self._make(kind)
        return found

    def _make(self, kind: Any) -> tuple[Write, Read]:
        origin, arguments = get_origin(kind), get_args(kind)
        if origin in (Union, UnionType):
            rest = [one for one in arguments if one is not NoneType]
            if len(rest) > 1:
                return self._union(rest)
            return _optional(*self._of(rest[0]))
        if origin is tuple:
            return self._tuple(arguments)
        if origin is not None and issubclass(origin, Mapping):
            return _mapping(*self._of(arguments[1]))
        return self._writer(kind), self._reader(kind)

    def _tuple(self, arguments: tuple[Any, ...]) -> tuple[Write, Read]:
        if arguments[1:] == (...,):
            write, read = self._of(arguments[0])
            return (lambda one: f"[{','.join(map(write, one))}]"), (lambda raw: tuple(map(read, _list(raw))))
        pairs = [self._of(one) for one in arguments]

        def write_all(one: tuple[Any, ...]) -> str:
            return f"[{','.join(write(value) for (write, _), value in zip(pairs, one, strict=True))}]"

        def read_all(raw: object) -> tuple[Any, ...]:
            return tuple(read(value) for (_, read), value in zip(pairs, _list(raw), strict=True))

        return write_all, read_all

    def _union(self, members: list[Any]) -> tuple[Write, Read]:
        by_kind = {self._kinds[one]: one for one in members}

        def write(one: Any) -> str:
            # Each has a field before that.
            kind = one.__class__
            return f'{self._of(kind)[0](one)[:-1]},"kind":{write_text(self._kinds[kind])}}}'

        def read(raw: Any) -> Any:
            return self._of(by_kind[raw.pop("kind")])[1](raw)

        return write, read

    def _writer(self, kind: Any) -> Write:
        hints, keys, always = get_type_hints(kind), self._keys.get(kind, {}), self._always.get(kind)
        heads = []
        for one in fields(kind):
            default = MISSING if one.name == always else _default(one)
            heads.append((f'"{keys.get(one.name, one.name)}":', default, self._of(hints[one.name])[0]))
        names = [one.name for one in fields(kind)]
        get = attrgetter(*names)
        # `attrgetter` of one name returns the value itself.
        values = get if len(names) > 1 else lambda one: (get(one),)

        def write(one: Any) -> str:
            found = [
                head + write(value)
                for (head, default, write), value in zip(heads, values(one), strict=True)
                if value is not default and (default is MISSING or value != default)
            ]
            return f"{{{','.join(found)}}}"

        return write

    def _reader(self, kind: Any) -> Read:
        hints, keys, repeated = get_type_hints(kind), self._keys.get(kind, {}), self._repeated.get(kind)
        known = {}
        for one in fields(kind):
            read = _shared_text if one.name == repeated else self._of(hints[one.name])[1]
            # Most values are of a plain type, and as they should be: that needs no call.
            plain = _as_it_is(hints[one.name]) if one.name != repeated else None
            known[keys.get(one.name, one.name)] = one.name, plain, read

        def read_all(raw: dict[str, Any]) -> Any:
            given = {}
            for key, value in raw.items():
                name, plain, read = known[key]
                given[name] = value if value.__class__ is plain else read(value)
            return kind(**given)

        if not self._skip_unknown:
            return read_all
        return lambda raw: read_all({key: value for key, value in raw.items() if key in known})


def _as_it_is(kind: Any) -> type | None:
    """Return the type of the values that are read as they are, None if there are none."""
    found = {str, int, float, bool}.intersection([kind, *get_args(kind)])
    is_plain = kind in found or get_origin(kind) in (Union, UnionType)
    return found.pop() if is_plain and len(found) == 1 else None


def _default(one: "Field[Any]") -> Any:
    """Return the default of a field, `MISSING` if it has none."""
    return one.default if one.default_factory is MISSING else one.default_factory()


def _optional(write: Write, read: Read) -> tuple[Write, Read]:
    return (
        lambda one: "null" if one is None else write(one),
        lambda raw: None if raw is None else read(raw),
    )


def _mapping(write: Write, read: Read) -> tuple[Write, Read]:
    def write_all(one: Mapping[str, Any]) -> str:
        return f"{{{','.join(f'{write_text(key)}:{write(value)}' for key, value in one.items())}}}"

    def read_all(raw: dict[str, Any]) -> dict[str, Any]:
        return {key: read(value) for key, value in raw.items()}

    return write_all, read_all


def _list(raw: object) -> list[Any]:
    if isinstance(raw, list):
        return raw
    raise ValueError(f"{raw!r} is no list")


def _only(*kinds: type) -> Read:
    """Return a function that returns a value of these types, and refuses any other one."""

    def read(raw: object) -> object:
        if raw.__class__ in kinds:
            return raw
        raise ValueError(f"{raw!r} is of another type")

    return read


_text = _only(str)


def _shared_text(raw: object) -> str:
    return sys.intern(_text(raw))


_PLAIN: Mapping[Any, tuple[Write, Read]] = {
    str: (write_text, _text),
    int: (repr, _only(int)),
    float: (json.dumps, _only(float, int)),
    bool: (lambda one: "true" if one else "false", _only(bool)),
    bytes: (
        lambda one: f'"{base64.b64encode(one).decode()}"',
        lambda raw: base64.b64decode(raw, validate=True),
    ),
}
