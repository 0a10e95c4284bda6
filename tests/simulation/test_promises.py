"""The reference model: what it allows after a close, a crash and an error, and what it does not."""

import pytest

from simulation.attributes import KnownAttributes
from simulation.model import Model, Uncertain, added, moved, removed
from simulation.node import Node
from swiftfs.filecache.block_map import BLOCK


def model_with(**files: bytes) -> Model:
    """Return a model with closed files in the root."""
    model = Model()
    for name, body in files.items():
        node = model.new()
        with model.change(added(f"/{name}", node)):
            node.now = body
        node.closed(body)
    return model


def file(model: Model, path: str) -> Node:
    node = model.at(path)
    assert node is not None
    return node


def test_a_closed_file_must_exist() -> None:
    model = model_with(a=b"1")
    assert model.problems({"/a": b"1"}) == []
    assert model.problems({"/a": b"2"}) == ["/a holds 1 bytes '2'; it should hold 1 bytes '1'"]
    assert model.problems({}) == ["/a is missing; it should hold 1 bytes '1'"]
    assert model.problems({"/a": b"1", "/b": b""}) == ["/b is there, but should not be; it holds 0 bytes ''"]


def test_what_another_client_has_replaced_may_be_missing_until_it_is_stored_again() -> None:
    model = model_with(a=b"1")
    model.lost("/a")
    model.adopt({"/a": b"1"})  # a copy on the disk
    assert model.problems({}) == []
    with pytest.raises(Uncertain):
        model.at("/a")
    model.adopt({})  # it could not be read
    assert model.lost_paths == {"/a"}
    model.worlds[0]["/a"].closed(b"2")
    assert model.problems({}) == ["/a is missing; it should hold 1 bytes '2'"]


def test_an_upload_of_a_file_that_a_kill_left_open_may_show_after_the_next_mount() -> None:
    model = model_with(a=b"1")
    node = file(model, "/a")
    node.writer = 1
    model.wrote(node, b"12")
    model.crashed()
    model.adopt({"/a": b"1"})
    assert model.problems({"/a": b"1"}) == model.problems({"/a": b"12"}) == []
    assert model.problems({"/a": b"3"}) != []
    node.closed(b"1")
    assert model.problems({"/a": b"12"}) != []


def test_a_change_in_place_that_a_kill_interrupts_may_be_stored_in_part() -> None:
    """Each block of it as it was at the last close, or as the change has left it."""
    old, new = b"1 " * (BLOCK // 2), b"2 " * (BLOCK // 2)
    model = model_with(a=old + old + b"1")
    model.wrote(file(model, "/a"), new + new + b"12")
    model.crashed()
    for body in (old + old + b"1", old + new + b"1", new + old + b"1", new + new + b"1"):
        assert model.problems({"/a": body}) == []
        assert body in model.bodies
    for body in (old + new + b"2", old + new, new[2:] + b"1 " + old + b"1"):
        assert model.problems({"/a": body}) != []


def test_a_file_that_was_never_closed_may_exist() -> None:
    model = model_with(a=b"1")
    node = model.new()
    with model.change(added("/b", node)):
        node.rewritten = []
    model.wrote(node, b"new")
    assert model.problems({"/a": b"1"}) == []
    assert model.problems({"/a": b"1", "/b": b"new"}) != []


def test_a_change_in_place_may_have_the_new_or_the_old_size() -> None:
    model = model_with(a=b"1234")
    model.wrote(file(model, "/a"), b"1x34567")
    for body in (b"1234", b"1x34567", b"1x34"):
        assert model.problems({"/a": body}) == []
    assert model.problems({"/a": b"1234567"}) != []


def test_a_truncated_file_is_as_before_until_its_close() -> None:
    model = model_with(a=b"1234")
    node = file(model, "/a")
    node.rewritten = []
    model.wrote(node, b"new")
    assert model.problems({"/a": b"1234"}) == []
    assert model.problems({"/a": b"new"}) != []
    assert model.problems({"/a": b""}) != []
    node.closed(b"new")
    assert model.problems({"/a": b"new"}) == []
    assert model.problems({"/a": b"1234"}) != []


def test_a_rename_that_failed_leaves_either_name_or_both_but_no_bytes_are_lost() -> None:
    model = model_with(a=b"1", b=b"2")
    with pytest.raises(OSError, match="5"), model.change(moved("/a", "/b")):
        raise OSError(5)
    for found in ({"/a": b"1", "/b": b"2"}, {"/b": b"1"}):
        assert model.problems(found) == []
    assert model.problems({"/b": b"2"}) != []
    with pytest.raises(Uncertain):
        model.at("/a")


def test_a_deletion_under_way_in_a_crash_may_have_happened() -> None:
    model = model_with(a=b"1")
    change = model.change(removed("/a"))
    change.__enter__()
    model.crashed()
    assert model.problems({}) == model.problems({"/a": b"1"}) == []
    model.adopt({})
    assert model.problems({"/a": b"1"}) != []


def test_a_move_that_a_kill_interrupted_may_be_at_both_places_while_the_server_fails() -> None:
    model = model_with(x=b"0")
    folder, node = model.new(is_folder=True), model.new()
    with model.change(added("/d", folder)):
        pass
    with model.change(added("/d/a", node)):
        pass
    node.closed(b"1")
    model.moving = ("/d", "/e")
    model.change(moved("/d", "/e")).__enter__()
    model.crashed()
    both = {"/x": b"0", "/d": None, "/d/a": b"1", "/e": None}
    assert model.problems(both) != []
    assert model.problems(both, torn=True) == []
    assert model.problems({"/x": b"0", "/d": None, "/e": None}, torn=True) != []


def test_objects_of_other_clients_must_not_be_destroyed() -> None:
    model = model_with(a=b"1")
    model.stored_theirs("/d/t", b"theirs", sure=True)
    assert model.problems({"/a": b"1", "/d": None, "/d/t": b"theirs"}) == []
    assert model.due == {"/d/t": b"theirs"}
    model.renamed("/d", "/e", {"/d/t"})
    model.touch("/d")
    assert model.due == {"/e/t": b"theirs"}
    model.stayed("/d/t", "/e/t")
    assert model.due == {"/d/t": b"theirs"}
    model.touch("/d")
    assert model.due == {}


def test_a_version_is_kept_under_another_name_only_if_there_is_another_client() -> None:
    model = model_with(a=b"1")
    found = {"/a": b"1", "/a (conflict 2026-11-30 12.00.00 01234567)": b"2"}
    assert model.problems(found) != []
    model.stored_theirs("/a", b"2", sure=True)
    assert model.problems(found) == []


def test_what_another_client_has_stored_and_deleted_need_not_be_there() -> None:
    model = model_with(a=b"1")
    for path in ("/t", "/u"):
        model.stored_theirs(path, b"theirs", sure=True)
    model.deleted_theirs("/t")
    assert model.due == {"/u": b"theirs"}


def test_a_folder_of_another_client_is_in_folders_of_theirs() -> None:
    model = model_with(a=b"1")
    model.their_folders.add("/d/s")
    assert model.problems({"/a": b"1", "/d": None, "/d/s": None}) == []
    assert model.problems({"/a": b"1", "/d": None, "/d/t": None}) == [
        "/d/t is there, but should not be; it holds a folder"
    ]


def test_what_swift_refused_to_move_may_have_been_taken_along_by_the_next_rename() -> None:
    model = model_with(x=b"0")
    for path in ("/d", "/e"):
        with model.change(added(path, model.new(is_folder=True))):
            pass
    node = model.new()
    with model.change(added("/d/a", node)):
        node.closed(b"1")
    model.stayed("/e/a", "/d/a")
    with model.change(moved("/e", "/f")):
        pass
    found = {"/x": b"0", "/d": None, "/f": None, "/f/a": b"1"}
    assert model.problems(found, torn=True) != []
    model.remnants.moved_on("/e", "/f")
    assert model.problems(found, torn=True) == []
    with model.change(added("/d/a", newer := model.new())):
        newer.closed(b"2")
    assert model.problems({**found, "/d/a": b"2"}, torn=True) == []
    assert model.problems({**found, "/d/a": b"2", "/f/a": b"3"}, torn=True) != []


def test_what_swift_refused_to_move_is_at_its_old_name_until_a_new_file_there_is_closed() -> None:
    model = model_with(x=b"0", a=b"1")
    with model.change(moved("/a", "/b")):
        pass
    model.stayed("/a", "/b")
    with model.change(added("/a", node := model.new())):
        model.wrote(node, b"2")
    model.crashed()
    found = {"/x": b"0", "/a": b"1"}
    assert model.problems(found, torn=True) == []
    node.closed(b"2")
    assert model.problems(found, torn=True) == ["/a holds 1 bytes '1'; it should hold 1 bytes '2'"]


def test_what_swift_refused_to_move_may_be_at_its_old_name_after_a_power_cut() -> None:
    model = Model()
    with model.change(added("/f", model.new(is_folder=True))):
        pass
    model.stayed("/e", "/f")
    with model.change(removed("/f")):
        pass
    model.synced(model.moment())
    model.crashed()
    model.lost_power()
    assert model.problems({"/e": None}) == model.problems({}) == []
    assert model.problems({"/e": b"1"}) != []
    assert model.problems({"/g": None}) != []


def test_a_file_that_a_rename_has_handed_in_may_be_truncated_after_a_power_cut() -> None:
    model = model_with(a=b"1")
    node = file(model, "/a")
    model.synced(model.moment())
    node.rewritten, node.now = [], b""
    node.hand_in()
    model.crashed()
    model.lost_power()
    for found in ({"/a": b"1"}, {"/a": b""}):
        assert model.problems(found) == []
    assert model.problems({}) != []


def test_after_a_power_cut_an_older_version_may_be_at_an_old_name_besides() -> None:
    model = model_with(a=b"1")
    node = file(model, "/a")
    model.synced(model.moment())
    node.now = b"2"
    node.closed(b"2")
    with model.change(moved("/a", "/b")):
        pass
    model.fsynced(node, b"2")
    model.crashed()
    model.lost_power()
    for found in ({"/b": b"2"}, {"/a": b"2"}, {"/a": b"1", "/b": b"2"}):
        assert model.problems(found) == []
    assert model.problems({"/a": b"1"}) != []
    assert model.problems({"/b": b"1"}) != []


def test_a_deleted_open_file_may_be_back_if_a_rename_to_its_name_failed() -> None:
    model = model_with(a=b"1", b=b"2")
    node = file(model, "/b")
    with model.change(removed("/b")):
        pass
    with pytest.raises(OSError, match="5"), model.change(moved("/a", "/b")):
        raise OSError(5)
    back = {"/a": b"1", "/b": b"2"}
    assert model.problems(back) != []
    model.may_be_back("/b", node)
    for found in (back, {"/a": b"1"}, {"/b": b"1"}):
        assert model.problems(found) == []
    for found in ({"/b": b"2"}, {"/a": b"1", "/b": b"3"}):
        assert model.problems(found) != []


def test_a_mode_that_was_set_stays_and_one_that_failed_may_be_there() -> None:
    model = model_with(a=b"1")
    node, attributes = file(model, "/a"), KnownAttributes(model, has_refusals=False)
    attributes.created(node)
    with attributes.change_mode(node) as first:
        pass
    assert attributes.problems({"/a": b"1"}, {"/a": (first, 5)}) == []
    assert attributes.problems({"/a": b"1"}, {"/a": (0o644, 5)}) != []
    with pytest.raises(OSError, match="no"), attributes.change_mode(node) as second:
        raise OSError("no")
    for mode in (first, second):
        assert attributes.problems({"/a": b"1"}, {"/a": (mode, 5)}) == []
    attributes.adopt({"/a": (second, 5)})
    assert attributes.problems({"/a": b"1"}, {"/a": (first, 5)}) != []


def test_a_time_that_was_set_stays_until_the_file_is_written() -> None:
    model = model_with(a=b"1")
    node, attributes = file(model, "/a"), KnownAttributes(model, has_refusals=False)
    with attributes.change_time(node) as time:
        pass
    with model.change(moved("/a", "/b")):
        pass
    assert attributes.problems({"/b": b"1"}, {"/b": (0o644, time)}) == []
    assert attributes.problems({"/b": b"1"}, {"/b": (0o644, 5)}) != []
    attributes.written(node)
    assert attributes.problems({"/b": b"1"}, {"/b": (0o644, 5)}) == []


def test_a_file_that_is_made_where_one_has_stayed_may_keep_its_mode() -> None:
    model = model_with(a=b"1")
    node, attributes = file(model, "/a"), KnownAttributes(model, has_refusals=False)
    attributes.created(node)
    with attributes.change_mode(node) as mode:
        pass
    with model.change(moved("/a", "/b")):
        pass
    assert model.replaced("/a") == []
    model.stayed("/a", "/b")
    newer = model.new()
    attributes.created(newer, model.replaced("/a"))
    with model.change(added("/a", newer)):
        newer.closed(b"2")
    for right in (mode, 0o644):
        assert attributes.problems({"/a": b"2"}, {"/a": (right, 5)}) == []
    assert attributes.problems({"/a": b"2"}, {"/a": (0o777, 5)}) != []
