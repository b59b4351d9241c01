"""Extraction stores batch by batch: an interruption loses no complete batch, and leaves no half one."""

import contextlib
import json

import numpy as np
import pytest

from config.errors import UserError
from datasets.conversion.extraction_folder import Extracted, ExtractionFolder

JOB = {"backbone": {"size": 8}, "pictures": "abc"}


def picture(number: int, regions: int = 0) -> Extracted:
    """Return a picture with a global vector, or with regions, boxes and tags."""
    random = np.random.default_rng(number)
    vectors = random.normal(size=(regions or 1, 5)).astype(np.float32)
    if not regions:
        return Extracted(f"{number}.jpg", vectors, (64, 48))
    boxes = random.uniform(0, 40, (regions, 4)).astype(np.float32)
    return Extracted(f"{number}.jpg", vectors, (64, 48), boxes, ["dog"] * regions, [0.5] * regions)


def open_folder(tmp_path) -> ExtractionFolder:
    return ExtractionFolder(tmp_path / "a.h5", JOB)


def assert_same(store, pictures: list[Extracted]) -> None:
    assert store.image_ids == [each.image_id for each in pictures]
    for row, expected in enumerate(pictures):
        found = store[row]
        values = expected.vectors if expected.boxes is not None else expected.vectors[0]
        np.testing.assert_array_equal(found.features, values)
        assert found.image_size == (64, 48)
        if expected.boxes is not None:
            np.testing.assert_array_equal(found.boxes, expected.boxes)
            assert found.tags == expected.tags and found.confidences.tolist() == expected.confidences


@pytest.mark.parametrize("regions", [[0, 0, 0], [3, 1, 4]])
def test_batches_come_back_as_a_store(tmp_path, regions):
    folder = open_folder(tmp_path)
    pictures = [picture(number, count) for number, count in enumerate(regions)]
    folder.add(pictures[:2], {"bad.jpg": "zero bytes"})
    folder.add([], {"worse.jpg": "truncated"})
    folder.add(pictures[2:], {})
    assert folder.done == 5 and folder.problems == {"bad.jpg": "zero bytes", "worse.jpg": "truncated"}
    store = folder.store()
    assert_same(store, pictures)
    assert store.max_regions == (4 if any(regions) else None) and store.dim == 5
    np.testing.assert_array_equal(
        store.vectors(np.array([2, 0])), np.concatenate([pictures[2].vectors, pictures[0].vectors])
    )
    folder.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("lost", ["nothing", "the end of the journal", "the whole journal line"])
def test_a_stop_in_the_midst_of_a_batch_loses_that_batch_alone(tmp_path, lost):
    folder = open_folder(tmp_path)
    folder.add([picture(0, 2)], {"bad.jpg": "zero bytes"})
    journal = folder.path / "journal.jsonl"
    whole = journal.read_bytes()
    folder.add([picture(1, 3)], {})
    if lost == "the end of the journal":
        journal.write_bytes(journal.read_bytes()[:-7])
    elif lost == "the whole journal line":
        journal.write_bytes(whole)
    folder.close()
    folder = open_folder(tmp_path)
    assert folder.done == (3 if lost == "nothing" else 2)
    if lost != "nothing":
        folder.add([picture(1, 3)], {})
    folder.add([picture(2, 1)], {})
    assert_same(folder.store(), [picture(0, 2), picture(1, 3), picture(2, 1)])


def test_another_job_is_refused_by_name(tmp_path):
    folder = open_folder(tmp_path)
    folder.add([picture(0)], {})
    folder.close()
    with pytest.raises(UserError, match="stopped here with other backbone: give its command again"):
        ExtractionFolder(tmp_path / "a.h5", {**JOB, "backbone": {"size": 9}})


def test_a_folder_in_which_nothing_is_complete_does_not_stay(tmp_path):
    folder = open_folder(tmp_path)
    with pytest.raises(UserError, match="another process"):
        open_folder(tmp_path)
    assert folder.path.exists()
    folder.close()
    assert list(tmp_path.iterdir()) == []


def test_two_processes_do_not_write_one_folder(tmp_path):
    folder = open_folder(tmp_path)
    with pytest.raises(UserError, match=r"a.h5.extraction: another process is writing it"):
        open_folder(tmp_path)
    assert folder.done == 0


def test_no_readable_picture_is_one_line(tmp_path):
    folder = open_folder(tmp_path)
    folder.add([], {"bad.jpg": "zero bytes"})
    with pytest.raises(UserError, match="bad.jpg: zero bytes; none of 1 pictures could be read"):
        folder.store()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*a.h5.extraction: Not a directory"):
        ExtractionFolder(tmp_path / "file" / "a.h5", JOB)


def test_what_a_job_without_a_record_left_is_not_taken(tmp_path):
    folder = open_folder(tmp_path)
    folder.add([picture(0)], {})
    (folder.path / "job.json").unlink()
    folder.close()
    folder = open_folder(tmp_path)
    assert folder.done == 0 and json.loads((folder.path / "job.json").read_text()) == JOB


def test_pictures_without_any_region_are_one_line(tmp_path):
    nothing = np.zeros((0, 5), np.float32)
    with contextlib.closing(open_folder(tmp_path)) as folder:
        folder.add([Extracted("0.jpg", nothing, (64, 48), np.zeros((0, 4), np.float32), [], [])], {})
    with contextlib.closing(open_folder(tmp_path)) as folder:
        with pytest.raises(UserError, match="no region was found in any of 1 pictures, such as 0.jpg"):
            folder.store()
    assert list(tmp_path.iterdir()) == []


JOURNAL = {
    "no JSON": lambda line: line[:-5],
    "a number": lambda line: b"3",
    "another width": lambda line: line.replace(b'"width": 5', b'"width": 6'),
    "no width": lambda line: line.replace(b'"width": 5', b'"width": null'),
    "another count": lambda line: line.replace(b'"0.jpg", 2', b'"0.jpg", 3'),
    "a size of one": lambda line: line.replace(b"[64, 48]", b"[64]"),
    "a tag that is none": lambda line: line.replace(b'"dog"', b"7", 1),
    "a confidence too few": lambda line: line.replace(b"[0.5, 0.5]", b"[0.5]"),
    "another file": lambda line: line.replace(b"vectors.float32", b"../b.txt"),
}


@pytest.mark.parametrize("damage", JOURNAL)
def test_a_damaged_journal_is_named_and_nothing_else_is_touched(tmp_path, damage):
    with contextlib.closing(open_folder(tmp_path)) as folder:
        folder.add([picture(0, 2)], {})
    (tmp_path / "b.txt").write_text("mine")
    journal = tmp_path / "a.h5.extraction" / "journal.jsonl"
    line = journal.read_bytes().removesuffix(b"\n")
    assert JOURNAL[damage](line) != line
    journal.write_bytes(JOURNAL[damage](line) + b"\n")
    with pytest.raises(UserError, match="journal.jsonl line 1 is damaged: delete that folder"):
        open_folder(tmp_path)
    assert (tmp_path / "b.txt").read_text() == "mine"


def test_vectors_that_are_lost_are_no_zeros(tmp_path):
    with contextlib.closing(open_folder(tmp_path)) as folder:
        folder.add([picture(0)], {})
    vectors = tmp_path / "a.h5.extraction" / "vectors.float32"
    vectors.write_bytes(vectors.read_bytes()[:-4])
    with pytest.raises(UserError, match="vectors.float32 is damaged: delete that folder"):
        open_folder(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000])
def test_a_damaged_job_is_said(tmp_path, content):
    with contextlib.closing(open_folder(tmp_path)) as folder:
        folder.add([picture(0)], {})
    (tmp_path / "a.h5.extraction" / "job.json").write_text(content)
    with pytest.raises(UserError, match="job.json is damaged"):
        open_folder(tmp_path)
