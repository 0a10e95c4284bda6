"""Log records for tests."""

import logging


def record(message: str, level: int = logging.INFO) -> logging.LogRecord:
    """Return a log record of swiftfs."""
    return logging.LogRecord("swiftfs", level, __file__, 1, message, (), None)
