"""The table of options as flags of a command."""

import re
from collections.abc import Callable, Iterable, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar

import click

from swiftfs.cli.group import FOLDER_IS_GONE, OneLineError
from swiftfs.config.options import MIB, OPTIONS, SWITCH, Option, parse_age, parse_size
from swiftfs.config.sources import OTHER_NAMES, Setting

Command = TypeVar("Command", bound=Callable[..., Any])


class GivenText(click.ParamType[Any]):
    """Any text but an empty one, which as a rule is a variable of the shell that is not set."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the text."""
        return value or self.fail("it is empty", param, ctx)


class AbsolutePath(click.Path):
    """A path, given to the command as an absolute one, so that all commands show one mount alike."""

    def __init__(self) -> None:
        # Without click's check: a dead mount is not readable, and swiftfs reports that in its own words.
        super().__init__(path_type=Path, readable=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the absolute path; raise `OneLineError` if the current folder is gone."""
        # `Path` would take the current folder.
        if value == "":
            self.fail("the path is empty", param, ctx)
        try:
            path: Any = super().convert(value, param, ctx)
            return Path(path).absolute()
        except FileNotFoundError:
            raise OneLineError(FOLDER_IS_GONE) from None


TEXT = GivenText()

MOUNTPOINT = FOLDER = AbsolutePath()

NAME_OR_PATH = click.Path(readable=False)
"""A path in a mount or `CONTAINER/PATH`, as it was written; a shell completes paths."""


def option_flags(names: Iterable[str] = OPTIONS) -> Callable[[Command], Command]:
    """Return a decorator that gives a click command a flag for each option named; `given` reads them."""

    def decorate(command: Command) -> Command:
        for name in reversed(list(names)):
            command = _flag(OPTIONS[name])(command)
        return command

    return decorate


def account_flags(*more: str) -> Callable[[Command], Command]:
    """Return a decorator with the flags that name the account, and those of `more` options."""
    storage = ["storage_url", "interface", "region", "insecure_storage"]
    return option_flags(["os_cloud", "credentials", *storage, "config", *more, "debug"])


def seconds_of(_context: click.Context, _parameter: click.Parameter, text: str) -> int:
    """Read an age as seconds, as click's callback of an option."""
    try:
        return parse_age(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: expected {error}") from None


def given(flags: Mapping[str, Any]) -> list[Setting]:
    """Return the settings that were given as flags; flags that were not given are None."""
    return [
        Setting(name, _text(value), OPTIONS[name].flag) for name, value in flags.items() if value is not None
    ]


def _flag(option: Option) -> Callable[[Command], Command]:
    default = f" [{option.default}]" if option.default else ""
    if option.kind is SWITCH:
        off = option.flag.replace("--", "--no-")
        others = [
            "--" + name.replace("_", "-") for name, meant in OTHER_NAMES.items() if meant == option.name
        ]
        return click.option(
            f"{option.flag}/{off}",
            *others,
            option.name,
            default=None,
            help=option.help + default,
            show_default=False,
        )
    return click.option(
        option.flag,
        option.name,
        metavar=option.kind.word,
        help=option.help + default,
        shell_complete=_complete_value,
    )


def complete_words(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[Any]:
    """Return what may follow in a word after `-o`."""
    from swiftfs.cli.group import words  # noqa: PLC0415  only completion needs it

    return words(incomplete)


def _complete_value(_context: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
    from swiftfs.cli.group import choices  # noqa: PLC0415  only completion needs it

    return list(choices(parameter.name or "", incomplete))


def _text(value: bool | str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value


def size_of(_context: click.Context, _parameter: click.Parameter, text: str) -> int:
    """Return the bytes of a size from 1M to 1G; a callback of click."""
    try:
        size = parse_size(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: expected {error}") from None
    if not MIB <= size <= 1024 * MIB:
        raise click.BadParameter(f"{text!r}: expected a size, 1M to 1G")
    return size


class PercentCommand(click.Command):
    """A command with an option whose percentage may be left out."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line; click takes a value that begins with `-` for another option."""
        for word in takewhile(lambda word: word != "--", args):
            flag, _, value = word.partition("=")
            option = next((one for one in self.params if flag in one.opts), None)
            if option is not None and option.callback is percent_of and value.startswith("-"):
                raise click.BadParameter(f"{value!r}: {_PERCENTAGE}", ctx, option)
        return super().parse_args(ctx, args)


_PERCENTAGE = "expected a percentage after '=', such as --bodies=5"


def percent_of(_context: click.Context, _parameter: click.Parameter, text: str | None) -> float:
    """Return the value of a percentage; a callback of click."""
    if text is None:
        return 0.0
    match = re.fullmatch(r"(\d{1,3}(?:\.\d+)?)%?", text)
    if match is None or not 0 < float(match[1]) <= 100:
        raise click.BadParameter(f"{text!r}: {_PERCENTAGE}")
    return float(match[1])
