"""Shell completion of the words after `-o`, and of values that are chosen from a list."""

from click.shell_completion import BashComplete, CompletionItem, add_completion_class

from swiftfs.config.options import OPTIONS, SWITCH, Option
from swiftfs.config.sources import OPPOSITES

_NO_BLANK = """
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]]; then
        compopt -o nospace
    fi

    return 0"""
"""Bash: after `name=` the value follows at once."""


def words(incomplete: str) -> list[CompletionItem]:
    """Return what may follow in a word after `-o`, such as `ro,conf` or `conflict=k`."""
    before, comma, last = incomplete.rpartition(",")
    name, equals, value = last.partition("=")
    if equals:
        ends = [f"{name}={choice}" for choice in choices(name, value)]
    else:
        texts = [one.name + ("" if one.kind is SWITCH else "=") for one in OPTIONS.values()]
        ends = [text for text in [*texts, *OPPOSITES] if text.startswith(last)]
    return [CompletionItem(before + comma + end) for end in ends]


def choices(name: str, incomplete: str) -> list[str]:
    """Return the values of an option that are words and begin with `incomplete`."""
    option = OPTIONS.get(name)
    return [word for word in _words_of(option) if word.startswith(incomplete)] if option else []


def _words_of(option: Option) -> list[str]:
    if option.kind is SWITCH:
        return ["yes", "no"]
    # Words in capitals stand for a value.
    return [word for word in option.kind.word.split("|") if word.islower()]


class _Bash(BashComplete):
    """Bash's completion, which gets `-o ttl=5,re` as four words, since bash splits at each `=`."""

    source_template = BashComplete.source_template.replace("\n    return 0", _NO_BLANK, 1)

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self._cut = 0

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the complete words and the incomplete one; those after `-o` are joined again."""
        complete, incomplete = super().get_completion_args()
        joined: list[str] = []
        for word in [*complete, incomplete]:
            belongs = joined[-2:-1] == ["-o"] and (word == "=" or joined[-1].endswith("="))
            if belongs:
                joined[-1] += word
            else:
                joined.append(word)
        # Bash replaces only what follows the last `=`.
        self._cut = joined[-1].rfind("=") + 1 if joined[-2:-1] == ["-o"] else 0
        return joined[:-1], joined[-1]

    def format_completion(self, item: CompletionItem) -> str:
        """Return the line of a completion."""
        item.value = item.value[self._cut :]
        return super().format_completion(item)


def install() -> None:
    """Let the completion of bash be the one of this module."""
    add_completion_class(_Bash)
