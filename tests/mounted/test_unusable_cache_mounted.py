"""The cache folder of a running mount becomes unusable: nobody says that all is stored."""

import pytest

from support.commands import one_line, swiftfs
from support.mounts import Mount


@pytest.mark.mount_options("settle=600")
def test_umount_does_not_trust_an_earlier_state(mounted: Mount) -> None:
    (mounted.path / "file").write_bytes(b"data")
    mounted.cache.rename(mounted.cache.with_name("moved"))
    process = mounted.take_process()
    said = one_line(swiftfs("umount", mounted.path))
    assert "is unmounted, but its process did not say whether everything is stored" in said
    process.wait()
