"""The process of a mount has died, or it is another user's: what the kernel answers is told as that."""

import errno
import os
import pwd
from pathlib import Path

import pytest

from swiftfs.control import mount_table
from swiftfs.control.unmount import detach, for_root
from swiftfs.errors import ConfigurationError, DeadMount, NotYours, mount_error, mount_point_error, os_error


@pytest.mark.parametrize("number", [errno.ENOTCONN, errno.ECONNABORTED])
def test_a_call_that_fails_for_a_dead_process(number: int) -> None:
    for told in (mount_error, mount_point_error):
        error = told(Path("/mnt"), os_error(number, "/mnt"))
        assert isinstance(error, DeadMount)
        assert str(error).startswith("/mnt: its process has died: ")


def test_root_is_told_how_to_unmount_a_mount_of_another_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel keeps root out of it, too. The table of mounts says whose it is."""
    (tmp_path / "mnt").mkdir()
    line = f"30 1 0:40 / {tmp_path}/mnt rw - fuse.swiftfs swift:photos rw,user_id={os.getuid()},group_id=0\n"
    (tmp_path / "mounts").write_text(line)
    monkeypatch.setattr(mount_table, "OWN_TABLE", tmp_path / "mounts")
    private = mount_error(tmp_path / "mnt", os_error(errno.EACCES))
    assert isinstance(private, NotYours)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    told = str(for_root(tmp_path / "mnt", private))
    user = pwd.getpwuid(os.getuid()).pw_name
    assert f"belongs to the user {user}: 'sudo -u {user} swiftfs umount {tmp_path}/mnt' waits until" in told
    assert "/other: only the user who mounted it" in str(
        for_root(tmp_path / "other", mount_error(tmp_path / "other", os_error(errno.EACCES)))
    )


def test_the_words_of_fusermount_are_shown_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only what follows the last colon: a table does not exist, not the mount point."""
    program = tmp_path / "fusermount"
    program.write_text(
        "#!/bin/sh\necho 'fusermount3: failed to open /etc/mtab: No such file or directory' >&2; exit 1\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ConfigurationError) as caught:
        detach(Path("/mnt"))
    assert str(caught.value) == (
        "cannot unmount /mnt: fusermount3: failed to open /etc/mtab: No such file or directory"
    )
