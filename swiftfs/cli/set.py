"""`swiftfs set`: change options of a running mount, and show them."""

import json
from pathlib import Path

import click

from swiftfs.config.sources import from_words
from swiftfs.control.client import set_options
from swiftfs.control.live_options import ORIGIN
from swiftfs.errors import ConfigurationError


def run(mountpoint: Path, words: tuple[str, ...], *, as_json: bool) -> None:
    """Change the options, and print those that can be changed as they are in force now."""
    for word in words:
        if "=" not in word:
            raise ConfigurationError(f"{word!r}: write OPTION=VALUE, such as bwlimit=2M")
    options = set_options(mountpoint, from_words(words, ORIGIN))
    if as_json:
        click.echo(json.dumps(options, indent=2))
        return
    for name, text in options.items():
        click.echo(f"{name}={text}")
