"""Who owns a new file: the caller, but in a folder with the setgid bit its group is the folder's."""

import stat
from dataclasses import replace

from swiftfs.namespace.namespace import Namespace
from swiftfs.objects import Caller
from swiftfs.paths import split


def in_folder(namespace: Namespace, path: str, mode: int, caller: Caller) -> tuple[int, Caller]:
    """Return the mode and the owner of what a call makes at `path`, as inode_init_owner() of Linux does.

    The kernel leaves that to file systems. It has just looked up the folder, so this asks Swift for nothing.
    """
    try:
        folder = namespace.lookup(split(path)[0]).attributes
    except FileNotFoundError:  # another client has deleted its marker
        return mode, caller
    if not folder.mode & stat.S_ISGID:
        return mode, caller
    if stat.S_ISDIR(mode):
        mode |= stat.S_ISGID
    elif folder.gid != caller.gid and caller.uid != 0:
        mode &= ~stat.S_ISGID  # nobody may make a program that runs with a group that is not theirs
    return mode, replace(caller, gid=folder.gid)
