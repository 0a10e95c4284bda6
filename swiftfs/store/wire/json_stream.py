"""Reads JSON from a server without holding more of it than what is asked for.

A parsed value takes up to thirty times the memory of its text: 90 MB of `[{},{},…]` would take gigabytes.
"""

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from swiftfs.errors import Corrupt

MAX_ENTRY = 128 * 1024
"""The longest entry of a list, in characters: a name of 1 KiB and a media type of 8 KiB, all escaped, have
60,000."""

MAX_VALUES = 100
"""The most values in an entry that is longer than that: one text needs little more memory than it is long."""

_BLANKS = re.compile(r"[ \t\r\n]*")


def iter_entries(chunks: Iterable[bytes], subject: str, longest: int = MAX_ENTRY) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON list as its `chunks` arrive; raise `Corrupt` for anything else.

    None may have more than `longest` characters.
    """
    text = _Text(chunks, subject, longest)
    if text.next_character() != "[":
        raise text.wrong("a list of entries")
    text.at += 1
    if text.next_character() == "]":
        text.at += 1
    else:
        yield from text.entries()
        while (letter := text.next_character()) != "]":
            if letter != ",":
                raise text.wrong("a list of entries")
            text.at += 1
            yield from text.entries()
        text.at += 1
    if text.next_character():
        raise text.wrong("JSON")


def parse_small(body: bytes, most_values: int) -> Any:
    """Return the value of a JSON text; raise `ValueError` if it is none or has more than `most_values`."""
    # Each value but the first one comes after one of these.
    if sum(body.count(mark) for mark in (b"[", b"{", b",", b":")) >= most_values:
        raise ValueError("too many values")
    return json.loads(body)


class _Text:
    """The text that has arrived and was not read yet: `at` is where reading continues."""

    def __init__(self, chunks: Iterable[bytes], subject: str, longest: int) -> None:
        self.at = 0
        self._chunks = iter(chunks)
        self._subject = subject
        self._longest = longest
        self._text = ""
        self._is_new = False
        self._begin: bytes | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._parse = json.JSONDecoder().raw_decode

    def next_character(self) -> str:
        """Skip blanks, and return the next character; an empty string at the end."""
        while True:
            self.at = _BLANKS.match(self._text, self.at).end()  # type: ignore[union-attr]
            if self.at < len(self._text):
                return self._text[self.at]
            if not self._read():
                return ""

    def entries(self) -> list[dict[str, Any]]:
        """Return the objects that begin at the next character, at least one, and go behind them."""
        if self.next_character() != "{":
            raise self.wrong("a list of entries")
        return self._arrived_entries() or [self._entry()]

    def _arrived_entries(self) -> list[dict[str, Any]]:
        """Return the complete objects of this chunk: that is four times as fast as one by one."""
        end = self._text.rfind("},", self.at) + 1
        if not (self._is_new and end):
            return []
        self._is_new = False
        try:
            values = json.loads(f"[{self._text[self.at : end]}]")
        except (ValueError, RecursionError):  # it ends within a text, or in an object within an object
            return []
        if not all(isinstance(value, dict) for value in values):
            raise self.wrong("a list of entries")
        self.at = end
        return list(values)

    def _entry(self) -> dict[str, Any]:
        while (entry := self._arrived_entry()) is None:
            # Outside of an `except`: an error of the network would have the parser's as its cause.
            if self._is_too_long() or not self._read():
                raise self.wrong("JSON")
        return entry

    def _is_too_long(self) -> bool:
        """Return whether an entry, the rest of the text, has too many characters, or values, to go on."""
        length = len(self._text) - self.at
        if length <= MAX_ENTRY:
            return False
        values = sum(self._text.count(mark, self.at) for mark in "[{,:")
        return length > self._longest or values > MAX_VALUES

    def _arrived_entry(self) -> dict[str, Any] | None:
        """Return the object, None if it is incomplete or wrong: the parser does not tell which."""
        try:
            value, self.at = self._parse(self._text, self.at)
        except RecursionError:
            raise self.wrong("JSON") from None
        except ValueError:
            return None
        assert isinstance(value, dict)
        return value

    def wrong(self, expected: str) -> Corrupt:
        """Return the error for a text that is not what was `expected`."""
        return Corrupt(f"the listing of {self._subject} is not {expected}: {(self._begin or b'')[:80]!r}")

    def _read(self) -> bool:
        """Append the next chunk, and drop what was read; return False at the end."""
        chunk = next(self._chunks, None)
        if self._begin is None:
            self._begin = (chunk or b"")[:80]
        try:
            more = self._decoder.decode(chunk or b"", final=chunk is None)
        except UnicodeDecodeError:
            raise self.wrong("JSON") from None
        self._text = self._text[self.at :] + more
        self.at = 0
        self._is_new = True
        return chunk is not None
