"""The kernel's side: fusepy on libfuse 2.9, and the one boundary that lets only errnos out."""

from swiftfs.errors import ConfigurationError

try:
    import fuse  # noqa: F401  fusepy loads libfuse when it is imported
except OSError as error:
    raise ConfigurationError("libfuse 2 is not installed: apt install fuse3 libfuse2") from error
