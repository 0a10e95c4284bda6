"""Ages on a command line, such as `7d`."""

import click

from swiftfs.config.options import parse_age


def seconds_of(_context: click.Context, _parameter: click.Parameter, text: str) -> int:
    """Read an age as seconds, as click's callback of an option."""
    try:
        return parse_age(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: expected {error}") from None
