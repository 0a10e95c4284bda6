"""Options as a mount has them, from the words of `-o`."""

from collections.abc import Iterable, Mapping

from swiftfs.config.options import Options
from swiftfs.config.sources import build_options, from_words, gather


def parse_options(words: Iterable[str], environment: Mapping[str, str] | None = None) -> Options:
    """Build `Options` from `-o` arguments alone, or with all that `gather` finds; errors as there."""
    return build_options([from_words(words)] if environment is None else gather(environment, words))
