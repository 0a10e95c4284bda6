"""The trees that `swiftfs check` compares have one order, and the bytes of files are hashed in parts."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as some

from support.memory_store import MemoryStore
from support.noise import noise
from support.stores import md5
from swiftfs.maintenance.item_check import SpanHasher
from swiftfs.maintenance.trees import local_tree, remote_tree
from swiftfs.objects import ObjectName
from swiftfs.paths import Source
from swiftfs.store.protocol import Headers

FILE, MARKER = Headers("text/plain"), Headers("application/directory")

NAMES = some.lists(
    some.lists(some.sampled_from(["a", "a-", "b", "a0", "é", "한", "~", ".x"]), min_size=1, max_size=4),
    max_size=12,
)


@given(NAMES, some.randoms(use_true_random=False))
def test_both_trees_have_one_order(
    tmp_path_factory: pytest.TempPathFactory, names: list[list[str]], rng: random.Random
) -> None:
    root = tmp_path_factory.mktemp("tree")
    store = MemoryStore("box")
    for parts in names:
        path = root.joinpath(*parts)
        if any(parent.is_file() for parent in path.parents) or path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"text")
        store.put(ObjectName("box", "/".join(parts)), b"text", FILE)
        for folder in parts[:-1]:
            marker = "/".join(parts[: parts.index(folder) + 1]) + rng.choice(["", "/"])
            if not (root / marker).is_file():
                store.put(ObjectName("box", marker), b"", MARKER)
    there = [one.place for one in remote_tree(store, Source("box"))]
    assert there == [one.place for one in local_tree(root)]
    assert there == sorted(there)


@pytest.mark.parametrize("sizes", [[], [0], [3], [0, 3, 0, 0, 2, 0]])
@pytest.mark.parametrize("step", [1, 2, 100])
def test_spans_are_hashed_one_by_one(sizes: list[int], step: int) -> None:
    data = noise(sum(sizes))
    hasher = SpanHasher(sizes)
    for start in range(0, len(data), step):
        hasher = hasher.copy()
        hasher.feed(data[start : start + step])
    ends = [sum(sizes[: number + 1]) for number in range(len(sizes))]
    assert hasher.digests == [md5(data[end - size : end]) for size, end in zip(sizes, ends, strict=True)]
