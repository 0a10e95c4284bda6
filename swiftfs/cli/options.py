"""The table of options as flags of a command."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from swiftfs.config.options import OPTIONS, SWITCH, Option
from swiftfs.config.sources import Setting

Command = TypeVar("Command", bound=Callable[..., Any])

# Without click's check: a dead mount is not readable, and swiftfs reports that in its own words.
MOUNTPOINT = FOLDER = click.Path(path_type=Path, readable=False)


def option_flags(names: Iterable[str] = OPTIONS) -> Callable[[Command], Command]:
    """Return a decorator that gives a click command a flag for each option named; `given` reads them."""

    def decorate(command: Command) -> Command:
        for name in reversed(list(names)):
            command = _flag(OPTIONS[name])(command)
        return command

    return decorate


def account_flags(*more: str) -> Callable[[Command], Command]:
    """Return a decorator with the flags that name the account, and those of `more` options."""
    return option_flags(["os_cloud", "credentials", "insecure_storage", "config", *more, "debug"])


def given(flags: Mapping[str, Any]) -> list[Setting]:
    """Return the settings that were given as flags; flags that were not given are None."""
    return [
        Setting(name, _text(value), OPTIONS[name].flag) for name, value in flags.items() if value is not None
    ]


def _flag(option: Option) -> Callable[[Command], Command]:
    default = f" [{option.default}]" if option.default else ""
    if option.kind is SWITCH:
        off = option.flag.replace("--", "--no-")
        return click.option(
            f"{option.flag}/{off}", option.name, default=None, help=option.help + default, show_default=False
        )
    return click.option(option.flag, option.name, metavar=option.kind.word, help=option.help + default)


def _text(value: bool | str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value
