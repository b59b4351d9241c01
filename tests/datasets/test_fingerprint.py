"""Data that changed are told from data that did not, without reading large files whole."""

import os

import numpy as np

from datasets.fingerprint import digest_of, digest_of_file
from engine.tasks.build_trainer import changed_data


def test_texts_and_numbers_change_the_digest():
    first = digest_of(["a dog", "é"], np.arange(3))
    assert first == digest_of(["a dog", "é"], np.arange(3, dtype=np.int32))
    others = [(["a do", "gé"], np.arange(3)), (["a dog"], np.arange(3)), (["a dog", "é"], np.arange(4))]
    assert len({first, *(digest_of(*other) for other in others)}) == 4


def test_a_file_written_anew_is_another(tmp_path):
    path = tmp_path / "features.npy"
    assert digest_of_file(path) == digest_of_file(tmp_path) == "", "no file, and a folder"
    values = np.random.default_rng(0).random(100_000)
    np.save(path, values)
    first = digest_of_file(path)
    os.utime(path, (0, 0))
    assert digest_of_file(path) == first, "the time does not matter"
    np.save(path, values + 1e-9)
    assert digest_of_file(path) != first
    path.write_bytes(b"")
    assert digest_of_file(path).startswith("0 bytes")


def test_the_parts_that_changed_are_named():
    before = {"train": {"captions": "a", "features": "b"}, "dev": {"captions": "c"}}
    now = {"train": {"captions": "x", "features": "b", "images": "new"}, "dev": {"captions": "y"}}
    assert changed_data(before, now) == ["captions of train", "captions of dev"]
    assert changed_data({}, now) == []
