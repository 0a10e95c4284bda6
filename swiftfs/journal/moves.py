"""Moves of folders under way, on disk: a process that died in one goes on with it at the next mount."""

import json
import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from swiftfs.journal.intents import MoveFolder
from swiftfs.model import ObjectName

log = logging.getLogger(__name__)


class MoveRecords:
    """One small file in `folder` for each move that has begun and has not ended, well or with an error."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def kept(self, intent: MoveFolder) -> Iterator[None]:
        """Keep a record of `intent` while the context lasts; only the death of the process leaves it."""
        self._folder.mkdir(exist_ok=True)
        path = self._folder / f"{uuid.uuid4().hex}.json"
        unfinished = path.with_suffix(".new")
        with unfinished.open("w") as file:
            json.dump(asdict(intent), file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)

    def unfinished(self) -> Iterator[tuple[Path, MoveFolder]]:
        """Yield the moves that a dead process left; a file that is none is set aside."""
        for path in sorted(self._folder.glob("*.json")):
            try:
                values = json.loads(path.read_text())
                markers = tuple((ObjectName(**old), ObjectName(**new)) for old, new in values.pop("markers"))
                yield path, MoveFolder(**values, markers=markers)
            except (ValueError, TypeError, KeyError) as error:
                log.warning("%s is no record of a move (%s): set aside", path, error)
                path.rename(path.with_suffix(".damaged"))
