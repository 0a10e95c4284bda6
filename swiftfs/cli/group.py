"""The group of commands: its help in the order of use, each failure as one line, and shell completion.

The shell completes the words after `-o` too, and values that are chosen from a list.
"""

import errno
import os
import re
import sys
from collections.abc import Iterable
from typing import Any

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class

from swiftfs.config.options import OPTIONS, SWITCH, Option
from swiftfs.config.sources import OPPOSITES
from swiftfs.errors import SwiftfsError, command_line, printable

WRONG_COMMAND_LINE = 2
"""The exit code for a command line that cannot be understood."""

COMPLETION = "_SWIFTFS_COMPLETE"
"""The variable by which a shell asks for completions."""

WIDEST = 10_000
"""A width that no description reaches, so that none is cut."""


FOLDER_IS_GONE = "the current folder was deleted: cd to another one"

_DID_YOU_MEAN = re.compile(r"\.? \(?Did you mean (?:one of: )?(.+?)\?\)?$")
"""How releases of click write what may be meant."""


class OneLineError(click.ClickException):
    """A failure reported in one line, exit code 1."""

    def show(self, file: object = None) -> None:  # noqa: ARG002  click's signature
        """Print the line to standard error."""
        click.echo(f"swiftfs: {printable(self.message)}", err=True)


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
