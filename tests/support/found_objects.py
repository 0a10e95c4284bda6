"""What another client finds in Swift."""

from swiftclient import Connection


def keys(connection: Connection, container: str, prefix: str = "") -> list[str]:
    """Return the names of a container's objects, by one request."""
    return [row["name"] for row in connection.get_container(container, prefix=prefix)[1]]


def body(connection: Connection, container: str, key: str) -> bytes:
    """Return an object's bytes."""
    found: bytes = connection.get_object(container, key)[1]
    return found
