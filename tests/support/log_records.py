"""Records of a log for tests."""

import logging


def record(message: str, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("swiftfs", level, __file__, 1, message, (), None)
