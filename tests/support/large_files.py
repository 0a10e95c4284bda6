"""Large files of tests: their segments and manifests in Swift, and changes to them in a mount."""

import json
import os
import random
from pathlib import Path
from typing import Any

from swiftclient import ClientException, Connection


def noise(size: int, seed: int = 0) -> bytes:
    """Return `size` bytes that no two seeds and no two offsets share."""
    return random.Random(seed).randbytes(size)


def manifest(connection: Connection, container: str, key: str) -> list[dict[str, Any]]:
    """Return the segments of an SLO as its manifest names them."""
    _, body = connection.get_object(container, key, query_string="multipart-manifest=get&format=json")
    parts: list[dict[str, Any]] = json.loads(body)
    return parts


def segment_rows(connection: Connection, container: str) -> list[dict[str, Any]]:
    """Return the listing of the segments' container; an empty one while there is none."""
    try:
        rows: list[dict[str, Any]] = connection.get_container(f"{container}_segments", full_listing=True)[1]
    except ClientException as error:
        if error.http_status != 404:
            raise
        return []
    return rows


def segment_names(connection: Connection, container: str) -> set[str]:
    """Return the paths of all stored segments, as manifests write them."""
    return {f"/{container}_segments/{row['name']}" for row in segment_rows(connection, container)}


def manifest_names(connection: Connection, container: str, key: str) -> set[str]:
    """Return the paths of the segments that an SLO names."""
    return {part["name"] for part in manifest(connection, container, key)}


MIB = 1024 * 1024


def patch(path: Path, data: bytearray) -> None:
    with path.open("r+b") as file:
        file.seek(2 * MIB + 5)
        file.write(b"changed")
    data[2 * MIB + 5 : 2 * MIB + 12] = b"changed"


def append(path: Path, data: bytearray) -> None:
    with path.open("ab") as file:
        file.write(b"appended" * 1000)
    data += b"appended" * 1000


def cut(path: Path, data: bytearray) -> None:
    os.truncate(path, 2 * MIB + 100)
    del data[2 * MIB + 100 :]
