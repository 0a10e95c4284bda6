"""The containers of segments: what `df` counts, and DLOs whose prefix has odd letters."""

import os
from urllib.parse import quote

import pytest
from swiftclient import Connection

from support.mounts import Mount


@pytest.mark.mount_options("segment_size=1M")
def test_df_counts_the_segments_of_large_files(mounted: Mount) -> None:
    (mounted.path / "film").write_bytes(os.urandom(3 * 1024**2))
    mounted.remount()
    shown = os.statvfs(mounted.path)
    used = (shown.f_blocks - shown.f_bfree) * shown.f_frsize
    assert 3 * 1024**2 <= used < 4 * 1024**2


def test_a_dlo_whose_prefix_has_odd_letters_is_read_and_changed(
    mounted: Mount, connection: Connection, container: str
) -> None:
    prefix = "parts/what?&100%25#+ä/"
    for number in range(3):
        connection.put_object(container, f"{prefix}{number}", f"part {number} ".encode())
    manifest = quote(f"{container}/{prefix}")
    connection.put_object(container, "large", b"", headers={"X-Object-Manifest": manifest})
    file = mounted.path / "large"
    assert file.stat().st_size == 21
    assert file.read_text() == "part 0 part 1 part 2 "
    file.chmod(0o600)
    file.rename(mounted.path / "moved")
    mounted.remount()
    assert (mounted.path / "moved").read_text() == "part 0 part 1 part 2 "
    assert connection.head_object(container, "moved")["x-object-manifest"] == f"{container}/{prefix}"
