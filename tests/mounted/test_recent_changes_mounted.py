"""The next mount shows what an earlier one had stored, while a real Swift answers with an old listing."""

import json

import pytest
from swiftclient import Connection

from support.commands import swiftfs
from support.mounts import Mount
from swiftfs.demo.server import Fault, SwiftServer

JSON = {"Content-Type": "application/json", "X-Container-Object-Count": "1"}


@pytest.mark.parametrize("is_killed", [True, False])
def test_the_next_mount_shows_what_was_stored(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str, is_killed: bool
) -> None:
    folder = mounted.path / "d"
    folder.mkdir()
    for name in ("moved", "deleted"):
        (folder / name).write_bytes(b"the only copy")
    rows = connection.get_container(container, prefix="d/", delimiter="/")[1]
    swift.inject(Fault("GET", f"/{container}\\?.*prefix=d/", status=200, headers=JSON, body=json.dumps(rows)))
    (folder / "new").write_bytes(b"new")
    (folder / "moved").rename(folder / "renamed")
    (folder / "deleted").unlink()
    assert swiftfs("flush", mounted.path).returncode == 0
    if is_killed:
        mounted.kill()
        mounted.start()
    else:
        mounted.remount(empty_cache=False)
    assert sorted(path.name for path in folder.iterdir()) == ["new", "renamed"]
    assert (folder / "new").read_bytes() == b"new"
    assert (folder / "renamed").read_bytes() == b"the only copy"
    for name in ("new", "renamed"):
        with pytest.raises(FileExistsError):
            (folder / name).touch(exist_ok=False)
    swift.clear_faults()
    mounted.remount()
    assert sorted(path.name for path in folder.iterdir()) == ["new", "renamed"]
