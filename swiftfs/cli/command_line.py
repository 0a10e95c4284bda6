"""How commands read their command line, and what they print but their results.

Options become flags, each failure is one line, and pending changes have the same words everywhere. The shell
completes the words after `-o` too, and values that are chosen from a list.
"""

import errno
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class

from swiftfs.config.options import MIB, OPTIONS, SWITCH, Option, parse_age, parse_size
from swiftfs.config.sources import OPPOSITES, OTHER_NAMES, Setting
from swiftfs.errors import SwiftfsError, command_line, pluralize, printable

if TYPE_CHECKING:
    from swiftfs.journal.queue_report import QueueReport

WRONG_COMMAND_LINE = 2
"""The exit code for a command line that cannot be understood."""

COMPLETION = "_SWIFTFS_COMPLETE"
"""The variable by which a shell asks for completions."""

WIDEST = 10_000
"""A width that no description reaches, so that none is cut."""

FOLDER_IS_GONE = "the current folder was deleted: cd to another one"

_DID_YOU_MEAN = re.compile(r"\.? \(?Did you mean (?:one of: )?(.+?)\?\)?$")
"""How releases of click write what may be meant."""

KINDS = {
    "PutFile": "file",
    "PutSmall": "link or special file",
    "PutMarker": "folder",
    "Describe": "attributes",
    "SetHeaders": "attributes",
    "Delete": "deletion",
    "Move": "move",
    "MoveObject": "move",
    "MoveFolder": "move",
}
"""The names of the journal's operations in what users read."""

Command = TypeVar("Command", bound=Callable[..., Any])


def complain(message: object) -> None:
    """Print a message to standard error, in one line that cannot control the terminal."""
    click.echo(f"swiftfs: {printable(str(message))}", err=True)


class OneLineError(click.ClickException):
    """A failure reported in one line, exit code 1."""

    def show(self, file: object = None) -> None:  # noqa: ARG002  click's signature
        """Print the line to standard error."""
        complain(self.message)


class WrongCommandLine(OneLineError):
    """A command line that cannot be understood; `path` is the command where the error does not know it."""

    exit_code = WRONG_COMMAND_LINE

    def __init__(self, error: click.UsageError, path: str) -> None:
        message = _DID_YOU_MEAN.sub(r"; did you mean \1?", error.format_message()).rstrip(".")
        if re.search(r"extra argument.*[( ]=", message):
            message += ": write NAME=VALUE without blanks, or in quotes"
        path = error.ctx.command_path if error.ctx else path
        super().__init__(f"{message[:1].lower()}{message[1:]} (see '{path} --help')")


class OneLineCommand(click.Command):
    """A command that tells a wrong command line in one line."""

    wrong = WrongCommandLine

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Read the command line, of a group up to the command; raise `WrongCommandLine`."""
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            raise _one_line(error, info_name or "", self.wrong) from error


class CommandGroup(OneLineCommand, click.Group):
    """Commands in the order in which they were defined: that of use."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run, or complete a command line for a shell."""
        _open_standard_streams()
        try:
            if COMPLETION in os.environ:
                install()
            return super().main(*arguments, **options)
        except OSError as error:
            if not _is_of_output(error):
                raise
            OneLineError(f"the output cannot be written: {error.strerror}").show()
            sys.exit(1)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        """Return the names in the order of use."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the first sentence of each command's help, however long."""
        rows = [(name, command.get_short_help_str(WIDEST)) for name, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; `swiftfs photos ~/photos` has none and is told how to mount."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            if (
                ctx.parent is not None
                or len(args) != 2
                or args[0].startswith("-")
                or _looks_like(args[0], self.commands)
                or not ("/" in args[1] or os.path.isdir(args[1]))  # noqa: PTH112  a dead mount may be there
            ):
                raise
            hint = f"{command_line('mount', *args)} mounts it"
            raise click.UsageError(f"no such command {args[0]!r}: {hint}", ctx) from None

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; raise `OneLineError` for what it cannot do."""
        try:
            return super().invoke(ctx)
        except SwiftfsError as error:
            raise OneLineError(str(error)) from error
        except click.UsageError as error:
            raise _one_line(error, f"{ctx.command_path} {ctx.invoked_subcommand or ''}".rstrip()) from error
        except KeyboardInterrupt as error:
            raise OneLineError("interrupted") from error
        except FileNotFoundError as error:
            if _current_folder_exists():
                raise
            raise OneLineError(FOLDER_IS_GONE) from error


def examples(*lines: str) -> str:
    """Return the end of a command's help; click keeps the lines as they are."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def _one_line(
    error: click.UsageError, path: str, wrong: type[WrongCommandLine] = WrongCommandLine
) -> click.ClickException:
    # `swiftfs` without a command, whose message is the whole help.
    if type(error).__name__ == "NoArgsIsHelpError":
        return error
    return wrong(error, path)


def _open_standard_streams() -> None:
    """Open those of descriptors 0 to 2 that are closed; Python has None for these streams.

    Else files that are opened later get these numbers, and what libfuse and programs report goes into them.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
        stream = os.fdopen(descriptor, "w" if descriptor else "r", closefd=False)
        setattr(sys, ("stdin", "stdout", "stderr")[descriptor], stream)
    os.close(descriptor)


def _is_of_output(error: OSError) -> bool:
    """Return whether standard output could not be written to; then it leads nowhere from here on."""
    # What fails with one of these elsewhere has the name of its file, or is reported where it is understood.
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO) or error.filename:
        return False
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # Python writes what is left when it ends
    os.close(nowhere)
    return True


def _looks_like(word: str, names: Iterable[str]) -> bool:
    import difflib  # noqa: PLC0415  only a mistake needs it

    return bool(difflib.get_close_matches(word, list(names)))


def _current_folder_exists() -> bool:
    try:
        os.getcwd()  # noqa: PTH109  `Path.cwd` is the same
    except FileNotFoundError:
        return False
    return True


def counts(report: "QueueReport") -> str:
    """Return in words how much is not stored yet."""
    from rich.filesize import decimal  # noqa: PLC0415  few commands need it

    if not report.total:
        return "nothing is waiting: everything that was closed is in Swift"
    by_state = (("waiting", report.waiting), ("running", report.running), ("parked", report.parked))
    states = [(state, count) for state, count in by_state if count]
    changes = pluralize(report.total, "change")
    if len(states) == 1:
        told = f"{changes} {states[0][0]}"
    else:
        told = f"{changes}: {', '.join(f'{count:,} {state}' for state, count in states)}"
    return f"{told}; {decimal(report.bytes)} of files" if report.bytes else told


@contextmanager
def spinner(text: str) -> Iterator[Callable[[str], None]]:
    """Show a spinner on a terminal while the block runs; provide a function that replaces the text."""
    if not sys.stderr.isatty():
        yield lambda _text: None
        return
    from rich.console import Console  # noqa: PLC0415  it takes time to load

    with Console(stderr=True).status(text) as status:
        yield status.update


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
    return words(incomplete)


def _complete_value(_context: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
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
