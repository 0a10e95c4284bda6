"""Files of credentials."""

from pathlib import Path


def secret_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    """Write a credentials file; return its path."""
    file = folder / "credentials"
    file.write_text(text)
    file.chmod(mode)
    return file
