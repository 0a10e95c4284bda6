"""Programs that work in a mount, step by step, and report their changes to the model."""

import errno
import os
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from simulation.adversary import CONTAINER
from simulation.attributes import TAG
from simulation.context import Handle, MountContext, Skip
from simulation.copies import FileCopy
from simulation.model import Uncertain, added, distinct, moved, removed
from simulation.mount import stored_body
from simulation.node import Node
from simulation.steps import Step
from simulation.words import describe_bytes
from support.harness import ME, get
from swiftfs.errors import NotFound, SwiftfsError
from swiftfs.journal.journal import HIDDEN_SECONDS
from swiftfs.objects import ObjectName

T = TypeVar("T")


class Program:
    """Executes the steps of one program."""

    def __init__(self, context: MountContext, name: str) -> None:
        self.name = name
        self._context = context
        self._model = context.model
        self._fs = context.filesystem
        self._attributes = context.attributes
        self._names = context.names
        self._handles: dict[int, Handle] = {}
        self._step = Step("nothing")
        self._hid: tuple[str, Node, float] | None = None

    def run(self, steps: Iterable[Step], begins: Callable[[int], None] = lambda _number: None) -> None:
        """Execute the steps; `begins` is called with the number of each."""
        for number, step in enumerate(steps):
            begins(number)
            self._step = step
            self._context.scheduler.record(f"{self.name}: {step}")
            verb: Callable[[Step], None] = getattr(self, f"_{step.verb.replace(' ', '_')}")
            try:
                verb(step)
            except (Skip, Uncertain):
                self._context.scheduler.record(f"{self.name}: skipped")
            except OSError as error:
                self._context.scheduler.record(f"{self.name}: {error}")
        for slot in list(self._handles):
            with suppress(OSError):
                self._close(self._handles.pop(slot))

    def _pause(self, step: Step) -> None:
        self._context.scheduler.sleep(step.seconds)

    def _write(self, step: Step) -> None:
        handle = self._make(step.path)
        try:
            for size in (step.size // 2, step.size - step.size // 2):
                if size:
                    self._put(handle, len(handle.node.now), self._model.fresh(size))
        finally:
            self._close(handle)

    def _copy(self, step: Step) -> None:
        """Copy a file as cp(1) does."""
        source = self._open(step.path, os.O_RDONLY)
        node = source.node
        try:
            if node.writer or node.vague or node.foreign or node.now in self._model.theirs:
                raise Skip
            node.writer += 1  # nobody changes it meanwhile
            try:
                target = self._make(step.other)
                try:
                    FileCopy(self._context, self._call, self._put).run(source, target)
                finally:
                    self._close(target)
            finally:
                node.writer -= 1
        finally:
            self._release(source)

    def _append(self, step: Step) -> None:
        handle = self._open(step.path, os.O_WRONLY | os.O_APPEND)
        try:
            self._put(handle, len(handle.node.now), self._model.fresh(step.size))
        finally:
            self._close(handle)

    def _patch(self, step: Step) -> None:
        handle = self._open(step.path, os.O_WRONLY)
        try:
            self._put(handle, step.offset, self._model.fresh(step.size))
        finally:
            self._close(handle)

    def _truncate(self, step: Step) -> None:
        with self._names:
            node = self._file(step.path)
            if node.writer or node.vague or self._is_theirs(step.path):
                raise Skip
            self._model.touch(step.path)
            body = node.now[: step.size].ljust(step.size, b"\0")
            self._model.wrote(node, body)
            self._attributes.written(node)
            node.now = body
            try:
                self._call(lambda: self._fs.truncate(step.path, step.size))
            except OSError:
                node.refused()
                raise
            node.closed(body)

    def _open_slot(self, step: Step) -> None:
        if step.slot in self._handles:
            raise Skip
        self._handles[step.slot] = self._open(step.path, os.O_RDWR)

    def _make_slot(self, step: Step) -> None:
        if step.slot in self._handles:
            raise Skip
        self._handles[step.slot] = self._make(step.path)

    def _append_slot(self, step: Step) -> None:
        handle = self._slot(step)
        self._put(handle, len(handle.node.now), self._model.fresh(step.size))

    def _patch_slot(self, step: Step) -> None:
        self._put(self._slot(step), step.offset, self._model.fresh(step.size))

    def _truncate_slot(self, step: Step) -> None:
        handle = self._slot(step)
        node = handle.node
        self._touch(node)
        body = node.now[: step.size].ljust(step.size, b"\0")
        self._model.wrote(node, body)
        self._call(lambda: self._fs.truncate_handle(handle.number, step.size))
        node.now = body
        self._model.wrote(node, body)

    def _read_slot(self, step: Step) -> None:
        handle = self._slot(step)
        body = self._call(lambda: get(self._fs, handle.number))
        self._compare(handle.node, body)

    def _fsync_slot(self, step: Step) -> None:
        self._fsync_handle(self._slot(step))

    def _close_slot(self, step: Step) -> None:
        self._slot(step)
        self._close(self._handles.pop(step.slot))

    def _close_mapped_slot(self, step: Step) -> None:
        """Close a file; the kernel writes back pages of a mapping later."""
        handle = self._slot(step)
        self._flush(handle)
        self._put(handle, step.offset, self._model.fresh(step.size))
        self._release(self._handles.pop(step.slot))
        handle.node.closed(handle.node.now)

    def _fsync(self, step: Step) -> None:
        handle = self._open(step.path, os.O_RDONLY)
        try:
            self._fsync_handle(handle)
        finally:
            self._release(handle)

    def _sync(self, _step: Step) -> None:
        clean = {node: node.now for node in self._context.clean_nodes()}
        handle = self._fs.opendir("/")
        try:
            self._call(lambda: self._fs.fsyncdir(handle))
        finally:
            self._fs.releasedir(handle)
        for node in self._context.clean_nodes():
            if clean.get(node) == node.now:
                self._context.check_stored(node)

    def _read(self, step: Step) -> None:
        handle = self._open(step.path, os.O_RDONLY)
        try:
            body = self._call(lambda: get(self._fs, handle.number))
            self._compare(handle.node, body)
        finally:
            self._release(handle)

    def _utimens(self, step: Step) -> None:
        with self._names, self._attributes.change_time(self._file(step.path)) as time:
            self._call(lambda: self._fs.utimens(step.path, None, time))

    def _chmod(self, step: Step) -> None:
        with self._names, self._attributes.change_mode(self._file(step.path)) as mode:
            self._call(lambda: self._fs.chmod(step.path, mode))

    def _tag(self, step: Step) -> None:
        with self._names, self._attributes.change_tag(self._file(step.path)) as tag:
            self._call(lambda: self._fs.setxattr(step.path, TAG, b"%d" % tag, 0))

    def _mkdir(self, step: Step) -> None:
        with self._names:
            self._new_name(step.path)
            with self._model.change(added(step.path, self._model.new(is_folder=True))):
                self._call(lambda: self._fs.mkdir(step.path, 0o755, ME))

    def _unlink(self, step: Step) -> None:
        with self._names:
            self._remove(step.path, self._file(step.path))

    def _rmtree(self, step: Step) -> None:
        with self._names:
            node = self._model.at(step.path)
            if node is None or not node.is_folder:
                raise Skip
            for path in reversed([step.path, *self._model.certain_below(step.path)]):
                node = self._model.at(path)
                assert node is not None
                if node.is_folder:
                    self._rmdir(path)
                else:
                    self._remove(path, node)

    def _rename(self, step: Step) -> None:
        old, new = step.path, step.other
        with self._names:
            node, target = self._model.at(old), self._model.at(new)
            self._parent(new)
            below = self._model.certain_below(old)
            if node is None or node.optional or old == new or f"{new}/".startswith(f"{old}/"):
                raise Skip
            if node.is_folder and (self._model.below(new) or (target is not None and not target.is_folder)):
                raise Skip
            if not node.is_folder:
                if target is not None and target.is_folder:
                    raise Skip
                self._model.due.pop(new, None)
                self._model.replaced(new)
            before, due, hid = self._model.worlds, {*self._model.due}, self._hidden_now(new)
            if target is not None and target.handles:
                self._hide(new, target)
                self._model.worlds = distinct([*before, *self._model.worlds])  # a kill may leave it deleted
                self._call(lambda: self._fs.unhide(new))
                self._model.worlds = before
            for path in (old, *below):
                if (found := self._model.at(path)) is not None and found.writer:
                    found.hand_in()
            self._model.moving, self._model.moving_folder = (old, new), node.is_folder
            try:
                with self._model.change(moved(old, new)):
                    self._call(lambda: self._fs.rename(old, new))
            except OSError:
                if node.is_folder:
                    self._model.remnants.torn(old, new)  # copies, until they are deleted
                    self._model.remnants.moved_on(old, new)
                self._keep_target(
                    new, hid, is_certain=target is not None and all(new in one for one in before)
                )
                raise
            else:
                self._model.renamed(old, new, due)
                self._context.renamed(old, new)
            finally:
                self._model.moving, self._model.moving_folder = None, False

    def _keep_target(self, path: str, hid: Node | None, *, is_certain: bool) -> None:
        """Record that a rename to `path` has failed, where a file is, or `hid` was just now."""
        if is_certain:
            self._model.worlds = [world for world in self._model.worlds if path in world]
        elif hid is not None:
            self._model.may_be_back(path, hid)

    def _theirs(self, step: Step) -> None:
        """Let another client store a small object where nothing exists."""
        with self._names:
            self._new_name(step.path)
            self._context.store.theirs(ObjectName(CONTAINER, step.path[1:]), self._model.fresh(12))

    def _their_write(self, step: Step) -> None:
        """Let the second mount replace, rename or delete a file, whoever has stored it."""
        if (second := self._context.second) is not None:
            for path in filter(None, (step.path, step.other)):
                self._model.touch(path)
            second.execute(step, self._model.fresh(step.size))

    _their_rename = _their_unlink = _their_write

    def _their_patch(self, step: Step) -> None:
        with self._names:
            node = self._file(step.path)
            if node.writer:
                raise Skip
            second, name = self._context.second, ObjectName(CONTAINER, step.path[1:])
            if second is None and not self._context.store.their_patch(name):
                raise Skip
            node.foreign = node.vague = self._model.mixed = True
            if second is not None:
                self._their_write(step)

    def _rmdir(self, path: str) -> None:
        # What libfuse has hidden is deleted next; what Swift has refused to delete is there again.
        there = (*self._context.hidden.values(), *self._model.remnants.undeleted)
        is_used = any(one.startswith(f"{path}/") for one in there)
        with self._model.change(removed(path)):
            self._call(lambda: self._fs.rmdir(path), {errno.ENOTEMPTY} if is_used else set())

    def _remove(self, path: str, node: Node) -> None:
        self._model.touch(path)
        if node.handles:
            self._hide(path, node)
            return
        with self._model.change(removed(path)):
            self._call(lambda: self._fs.unlink(path))

    def _hide(self, path: str, node: Node) -> None:
        """Delete an open file as libfuse does: rename it, and delete it after its last close."""
        hidden = f"{path.rsplit('/', 1)[0]}/.fuse_hidden{node.number:016x}"
        with self._model.change(removed(path)):
            self._call(lambda: self._fs.hide(path, hidden))
        self._context.hidden[node] = hidden
        self._hid = path, node, self._context.scheduler.now

    def _hidden_now(self, path: str) -> Node | None:
        """Return the file that this program has deleted at a path as its last one, if that was just now."""
        now, hid = self._context.scheduler.now, self._hid
        return hid[1] if hid is not None and hid[0] == path and now <= hid[2] + HIDDEN_SECONDS else None

    def _make(self, path: str) -> Handle:
        """Create a file, or open and truncate it."""
        with self._names:
            node = self._model.at(path)
            self._parent(path)
            self._model.touch(path)
            if node is None:
                node = self._model.new()
                self._attributes.created(node, self._model.replaced(path))
                with self._model.change(added(path, node)):
                    number = self._call(lambda: self._fs.create(path, 0o644, os.O_WRONLY | os.O_TRUNC, ME))
                node.rewritten = []
            else:
                self._may_write(node)
                self._model.wrote(node, node.now)
                self._attributes.written(node)
                number = self._call(lambda: self._fs.open(path, os.O_WRONLY | os.O_TRUNC))
                node.rewritten, node.now = [], b""
            node.handles += 1
            node.writer += 1
            return Handle(number, node, writable=True)

    def _open(self, path: str, flags: int) -> Handle:
        with self._names:
            node = self._file(path)
            writable = flags & os.O_ACCMODE != os.O_RDONLY
            if writable:
                self._may_write(node)
                if self._is_theirs(path):
                    raise Skip
                self._model.touch(path)
            number = self._call(lambda: self._fs.open(path, flags))
            node.handles += 1
            node.writer += writable
            return Handle(number, node, writable)

    def _is_theirs(self, path: str) -> bool:
        """Return whether another client has stored a file at a path: no program knows what it holds."""
        with suppress(NotFound):
            stored = stored_body(self._context.store, ObjectName(CONTAINER, path[1:]))
            return path in self._model.their_paths or stored in self._model.theirs
        return path in self._model.their_paths

    def _put(self, handle: Handle, offset: int, data: bytes) -> None:
        node = handle.node
        self._touch(node)
        before = node.now

        def after(size: int) -> bytes:
            return before[:offset].ljust(offset, b"\0") + data[:size] + before[offset + size :]

        self._model.wrote(node, after(len(data)))
        done = 0
        while done < len(data):
            done += self._call(partial(self._write_some, handle.number, offset + done, data[done:]))
            node.now = after(done)
            self._model.wrote(node, node.now)

    def _touch(self, node: Node) -> None:
        """Record that the bytes of an open file are about to change."""
        self._attributes.written(node)
        for path in self._model.paths_of(node):  # its folder may have been renamed since
            self._model.touch(path)

    def _write_some(self, handle: int, offset: int, data: bytes) -> int:
        """Write as write(2) does: a full disk may take a part."""
        return self._fs.write(handle, offset, len(data), lambda file, at: os.pwrite(file, data, at))

    def _close(self, handle: Handle) -> None:
        try:
            self._flush(handle)
        finally:
            self._release(handle)

    def _flush(self, handle: Handle) -> None:
        node = handle.node
        if node.rewritten is not None:
            node.unclosed.append(node.now)
        if self._context.second is not None and handle.writable:  # the last writer wins
            for path in self._model.paths_of(node):
                self._model.touch(path)
        try:
            self._call(lambda: self._fs.flush(handle.number))
        except OSError:
            node.refused()
            raise
        if handle.writable and not self._is_hidden(node):
            node.closed(node.now)

    def _is_hidden(self, node: Node) -> bool:
        """Return whether a file was deleted while it is open: then nothing that is handed in is stored."""
        return node in self._context.hidden

    def _release(self, handle: Handle) -> None:
        node = handle.node
        self._call(lambda: self._fs.release(handle.number))
        with self._names:
            node.handles -= 1
            node.writer -= handle.writable
            if not node.handles and (hidden := self._context.hidden.pop(node, None)) is not None:
                with suppress(OSError, SwiftfsError):
                    self._fs.unlink(hidden)

    def _fsync_handle(self, handle: Handle) -> None:
        node = handle.node
        body = node.now
        if node.rewritten is not None:  # also what another handle has written, or writes meanwhile
            node.unclosed.append(body)
            node.rewritten = None
        try:
            self._call(lambda: self._fs.fsync(handle.number, False))
        except OSError:
            if handle.writable:
                node.refused()
            raise
        if node.now is body and not self._is_hidden(node):
            if handle.writable:
                node.closed(body)
            self._model.fsynced(node, body)
            self._context.check_stored(node)

    def _compare(self, node: Node, body: bytes) -> None:
        if (
            not node.vague
            and not node.foreign
            and body not in self._model.theirs
            and not self._context.doubts_reads
            and body != node.now
            and node.writer == 0
        ):
            self._context.fail(
                f"{self._step}: it returned {describe_bytes(body)}, "
                f"and should have {describe_bytes(node.now)}"
            )

    def _slot(self, step: Step) -> Handle:
        if step.slot not in self._handles:
            raise Skip
        return self._handles[step.slot]

    def _file(self, path: str) -> Node:
        node = self._model.at(path)
        if node is None or node.is_folder:
            raise Skip
        return node

    def _may_write(self, node: Node) -> None:
        if node.is_folder or node.writer or (node.vague and not node.foreign):
            raise Skip

    def _new_name(self, path: str) -> None:
        if self._model.at(path) is not None:
            raise Skip
        self._parent(path)

    def _parent(self, path: str) -> None:
        parent = path.rsplit("/", 1)[0]
        if parent and ((node := self._model.at(parent)) is None or not node.is_folder):
            raise Skip

    def _call(self, call: Callable[[], T], right: Collection[int] = ()) -> T:
        return self._context.call(f"{self.name}: {self._step}", call, right)
