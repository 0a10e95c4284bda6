"""Programs that read file after file are recognised, in each order that programs use, and others are not."""

import random
from collections.abc import Iterable

import pytest

from swiftfs.namespace.entry import Defaults, Entry, file_entry, implied_entry
from swiftfs.objects import Row
from swiftfs.paths import Folder, split
from swiftfs.posix.prefetch import CERTAIN, ORDERS, READERS, Readers

DEFAULTS = Defaults(0, 0)
WINDOW = 8


def file(path: str, size: int = 10) -> Entry:
    row = Row(path.lstrip("/"), size, "etag", "text/plain;mode=0100644", "")
    return file_entry(split(path)[1], "box", row, DEFAULTS)


def folder(path: str) -> Entry:
    return implied_entry(split(path)[1], Folder("box", path[1:] + "/"), DEFAULTS)


class Tree:
    """Folders in memory; `asked` are those that were looked up."""

    def __init__(self, **folders: Iterable[str]) -> None:
        """Take the paths in each folder; one that ends in `/` is a folder."""
        self.folders: dict[str, list[Entry]] = {}
        self.asked: list[str] = []
        for path, names in folders.items():
            self.folders[path] = [
                folder(name.rstrip("/")) if name.endswith("/") else file(name) for name in names
            ]

    def known(self, path: str, near: str) -> list[Entry] | None:
        assert not near or isinstance(near, str)
        self.asked.append(path)
        return self.folders.get(path)

    def readers(self, window: int = WINDOW) -> Readers:
        return Readers(self.known, window)


def paths(count: int, top: str = "/d") -> list[str]:
    return [f"{top}/f{number:03d}" for number in range(count)]


def expected(readers: Readers, opened: Iterable[str]) -> list[str]:
    """Return the files expected after the last of these is opened; none if no reader opened it."""
    reader = None
    for path in opened:
        reader = readers.opened(path)
    return [] if reader is None else reader.expected


def test_three_in_order_make_a_reader() -> None:
    files = paths(50)
    readers = Tree(**{"/d": files}).readers()
    assert expected(readers, files[:1]) == []
    assert expected(readers, files[1:2]) == []
    assert expected(readers, files[2:3]) == files[3 : 3 + 2 * CERTAIN]
    assert expected(readers, files[3:10]) == files[10 : 10 + WINDOW]


def test_no_more_is_expected_than_twice_what_was_read() -> None:
    files = paths(200)
    readers = Tree(**{"/d": files}).readers(100)
    for count in range(1, 60):
        ahead = expected(readers, files[count - 1 : count])
        assert len(ahead) <= 2 * count
    assert len(ahead) == 100


@pytest.mark.parametrize("order", range(len(ORDERS)))
def test_every_order_is_recognised(order: int) -> None:
    names = [f"{'aBcDe'[number % 5]}{number * 7919 % 100:02d}" for number in range(60)]
    tree = Tree(**{"/d": [f"/d/{name}" for name in names]})
    shown = [f"/d/{entry.name}" for entry in ORDERS[order](tree.folders["/d"])]
    assert expected(tree.readers(), shown[20:30]) == shown[30 : 30 + WINDOW]


def test_random_opens_are_no_reader() -> None:
    files = paths(200)
    readers = Tree(**{"/d": files}).readers()
    for path in random.Random(7).sample(files, 100):
        assert expected(readers, [path]) == []


def test_one_file_read_again_or_files_read_backwards_are_no_reader() -> None:
    files = paths(50)
    readers = Tree(**{"/d": files}).readers()
    assert expected(readers, [files[5]] * 10) == []
    assert expected(readers, reversed(files)) == []


def test_two_readers_at_once_are_distinguished() -> None:
    one, other = paths(30, "/one"), paths(30, "/other")
    readers = Tree(**{"/one": one, "/other": other}).readers()
    for left, right in zip(one[:10], other[:10], strict=True):
        ahead = expected(readers, [left]), expected(readers, [right])
    assert ahead == (one[10 : 10 + WINDOW], other[10 : 10 + WINDOW])


def test_newer_readers_displace_a_reader_but_random_opens_do_not() -> None:
    tops = [f"/d{number}" for number in range(READERS + 1)]
    tree = Tree(**{top: paths(30, top) for top in tops}, **{"/x": paths(200, "/x")})
    readers = tree.readers()
    first = paths(30, tops[0])
    assert expected(readers, first[:10]) == first[10 : 10 + WINDOW]
    assert expected(readers, random.Random(7).sample(paths(200, "/x"), 40)) == []
    assert expected(readers, first[10:11]) == first[11 : 11 + WINDOW]
    for top in tops[1:]:
        assert expected(readers, paths(10, top))
    assert expected(readers, first[11:12]) == []


def test_less_is_expected_of_a_reader_that_skips_files() -> None:
    files = paths(300)
    readers = Tree(**{"/d": files}).readers(100)
    assert len(expected(readers, files[:50])) == 100
    for number in range(53, 153, 4):
        ahead = expected(readers, [files[number]])
    assert len(ahead) == 2 * (CERTAIN + 1)
    assert expected(readers, [files[250]]) == []


def test_a_reader_with_several_threads_opens_a_little_out_of_order() -> None:
    files = paths(40)
    readers = Tree(**{"/d": files}).readers()
    assert expected(readers, files[:6])
    assert expected(readers, [files[7], files[6], files[8]]) == files[9 : 9 + WINDOW]


def test_empty_files_may_be_skipped() -> None:
    files = paths(20)
    tree = Tree(**{"/d": files})
    tree.folders["/d"][1::2] = [file(path, size=0) for path in files[1::2]]
    assert expected(tree.readers(), files[:8]) == files[8 : 8 + WINDOW]
    assert expected(tree.readers(), files[:12:2]) == files[11 : 11 + WINDOW]


def test_a_walk_continues_in_the_next_folder() -> None:
    a, b, c = paths(4, "/t/a"), paths(4, "/t/b"), paths(4, "/t/c")
    tree = Tree(**{"/": ["/t/", "/u/"], "/t": ["/t/a/", "/t/b/", "/t/c/"], "/t/a": a, "/t/b": b, "/t/c": c})
    tree.folders["/u"] = [file("/u/f")]
    readers = tree.readers()
    assert expected(readers, a[:3]) == a[3:]
    assert expected(readers, a[3:]) == []  # a reader of one folder is not expected in the next
    assert expected(readers, b[:1]) == b[1:] + c
    assert expected(readers, b[1:] + c[:3]) == c[3:]
    assert expected(readers, c[3:]) == []  # nor outside the tree in which it was seen


def test_a_walk_in_an_unknown_order_of_folders_continues() -> None:
    tops = [f"/t/{name}" for name in "fbeacd"]
    tree = Tree(**{top: paths(6, top) for top in tops})
    readers = tree.readers()
    assert expected(readers, paths(6, tops[0])) == []
    for top in tops[1:]:
        assert expected(readers, paths(6, top)[:1]) == paths(6, top)[1:]
        assert expected(readers, paths(6, top)[1:]) == []


def test_a_walk_that_reads_files_before_folders() -> None:
    tree = Tree(**{"/": ["/t/"], "/t": ["/t/a", "/t/b/", "/t/c", "/t/d", "/t/e"], "/t/b": paths(3, "/t/b")})
    walk = ["/t/a", "/t/c", "/t/d", "/t/e", *paths(3, "/t/b")]
    assert expected(tree.readers(), walk[:3]) == walk[3:]
    mixed = ["/t/a", *paths(3, "/t/b"), "/t/c", "/t/d", "/t/e"]
    assert expected(tree.readers(), mixed[:4]) == mixed[4:]


def test_nothing_is_expected_behind_an_unknown_folder() -> None:
    a = paths(4, "/t/a")
    tree = Tree(**{"/t": ["/t/a/", "/t/b/", "/t/c/"], "/t/a": a, "/t/c": paths(4, "/t/c")})
    readers = tree.readers()
    assert expected(readers, a) == []
    tree.folders["/t/b"] = [file(path) for path in paths(4, "/t/b")]
    ahead = expected(readers, ["/t/b/f000"])
    assert ahead == paths(4, "/t/b")[1:] + paths(4, "/t/c")


def test_many_empty_folders_are_not_searched() -> None:
    empty = {f"/t/e{number:04d}": () for number in range(5000)}
    tree = Tree(**{"/t": [*paths(3, "/t"), *(path + "/" for path in empty), "/t/z"], **empty})
    assert expected(tree.readers(), paths(3, "/t")) == []
    assert len(tree.asked) < 3000


def test_without_a_window_nothing_is_expected() -> None:
    tree = Tree(**{"/d": paths(30)})
    assert expected(tree.readers(0), paths(30)) == []
    assert tree.asked == []
