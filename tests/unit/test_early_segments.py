"""Segments that are uploaded while their file is still written, and the holes of sparse files."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.deadlines import within
from support.jobs import wait_until
from support.noise import noise
from support.upload_rig import MIB, NAME, Writer
from swiftfs.errors import Unavailable

pytest_plugins = ["support.writer_fixtures"]


@pytest.mark.usual
def test_holes_of_one_length_are_one_segment(writer: Writer) -> None:
    writer.truncate(10 * MIB)
    writer.write(3 * MIB + 100, b"data")
    writer.run()
    assert writer.stored() == writer.model
    assert len(writer.segments()) == 2
    assert len(writer.store.manifest(NAME).segments) == 10
    writer.write(0, noise(2 * MIB))
    writer.run()
    assert writer.stored() == writer.model
    writer.write(2 * MIB, noise(8 * MIB))
    writer.run()
    assert writer.stored() == writer.model
    assert writer.segments() == writer.named()


def test_a_hole_that_is_made_again_is_stored_again(writer: Writer) -> None:
    writer.truncate(3 * MIB)
    writer.run()
    writer.write(0, noise(3 * MIB))
    writer.run()
    assert len(writer.segments()) == 3
    writer.truncate(0)
    writer.truncate(2 * MIB)
    writer.run()
    assert writer.stored() == bytes(2 * MIB)
    assert writer.segments() == writer.named()


def test_a_full_segment_is_uploaded_after_the_write_delay(build_writer: Callable[..., Writer]) -> None:
    writer = build_writer()
    uploads = writer.cached_file.uploads
    uploads._settle_seconds = 3600.0
    writer.write(0, noise(4 * MIB))
    assert not uploads.is_busy
    assert writer.puts() == 0
    uploads._settle_seconds = 0.0
    writer.write(4 * MIB, noise(10))
    assert writer.puts() == 4
    uploads._settle_seconds = 3600.0
    writer.write(4 * MIB, noise(3 * MIB))
    assert writer.cached_file.upload_full_segments()  # a writer waits for disk space
    writer.run()
    assert writer.stored() == writer.model


def test_a_segment_that_is_cut_within_the_write_delay_is_not_uploaded(writer: Writer) -> None:
    uploads = writer.cached_file.uploads
    uploads._settle_seconds = 3600.0
    writer.write(0, noise(4 * MIB))
    writer.truncate(MIB + 10)
    uploads._settle_seconds = 0.0
    writer.write(MIB + 10, b"more")
    assert writer.puts() == 1
    writer.write(MIB + 14, noise(2 * MIB))
    assert writer.puts() == 2
    writer.run()
    assert writer.stored() == writer.model


def rests(writer: Writer) -> None:
    """Let no segment be uploaded while the file is written."""
    writer.cached_file.uploads._settle_seconds = 3600.0


def test_the_rest_is_uploaded_at_the_close(writer: Writer) -> None:
    rests(writer)
    writer.write(0, noise(3 * MIB + 10))
    assert writer.puts() == 0
    writer.cached_file.upload_rest()
    assert writer.puts() == 4
    writer.cached_file.upload_rest()
    assert writer.puts() == 0
    writer.run()
    assert writer.stored() == writer.model
    assert len(writer.segments()) == 4


def test_a_file_that_goes_on_after_a_close_is_stored(writer: Writer) -> None:
    rests(writer)
    writer.write(0, noise(2 * MIB + 10))
    writer.cached_file.upload_rest()
    assert writer.puts() == 3
    writer.write(2 * MIB + 10, noise(2 * MIB))
    writer.cached_file.upload_rest()
    writer.run()
    assert writer.stored() == writer.model
    assert writer.segments() == writer.named()


def test_a_file_that_is_rewritten_after_a_close_waits_for_its_write_delay(writer: Writer) -> None:
    rests(writer)
    writer.write(0, noise(3 * MIB))
    writer.cached_file.upload_rest()
    assert writer.puts() == 3
    writer.write(10, b"changed")
    writer.cached_file.upload_rest()
    assert writer.puts() == 0
    writer.run()
    assert writer.stored() == writer.model
    assert writer.segments() == writer.named()


def test_small_and_scattered_files_wait_for_their_write_delay(writer: Writer) -> None:
    writer.write(0, noise(MIB))
    writer.cached_file.upload_rest()
    assert writer.puts() == 0
    writer.write(2 * MIB, noise(MIB))
    writer.cached_file.upload_rest()
    assert writer.puts() == 0


def test_an_abandoned_segment_whose_answer_is_lost_is_deleted(writer: Writer) -> None:
    """The file is deleted while the segment is sent, and its upload fails after that."""
    lose = threading.Event()

    def hook(method: str, _subject: object) -> None:
        if method == "put":
            assert lose.wait(within(30))
            raise Unavailable("lost")

    uploads = writer.cached_file.uploads
    writer.store.hook = hook
    writer.write(0, noise(MIB + 1))
    with ThreadPoolExecutor(1) as pool:
        unused = pool.submit(uploads.abandon)
        wait_until(lambda: not list(uploads._uploads.values()))
        lose.set()
        assert [name.key.rpartition("/")[2][:13] for name in unused.result()] == ["0" * 13]
