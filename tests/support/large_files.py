"""Large files of tests: their segments and manifests in Swift, and changes of them in a mount."""

import json
import os
from pathlib import Path
from typing import Any

from swiftclient import ClientException, Connection


def manifest(connection: Connection, container: str, key: str) -> list[dict[str, Any]]:
    """Return the entries of an SLO's manifest."""
    _, body = connection.get_object(container, key, query_string="multipart-manifest=get&format=json")
    parts: list[dict[str, Any]] = json.loads(body)
    return parts


def segment_rows(connection: Connection, container: str) -> list[dict[str, Any]]:
    """Return the listing of the container of segments; empty if it does not exist."""
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
    """Write into the third MiB of a file, and into `data`, its expected bytes."""
    with path.open("r+b") as file:
        file.seek(2 * MIB + 5)
        file.write(b"changed")
    data[2 * MIB + 5 : 2 * MIB + 12] = b"changed"


def append(path: Path, data: bytearray) -> None:
    """Append to a file and to its expected bytes."""
    with path.open("ab") as file:
        file.write(b"appended" * 1000)
    data += b"appended" * 1000


def cut(path: Path, data: bytearray) -> None:
    """Cut a file and its expected bytes to a little more than 2 MiB."""
    os.truncate(path, 2 * MIB + 100)
    del data[2 * MIB + 100 :]
