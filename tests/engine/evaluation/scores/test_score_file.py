"""The file of all scores appears whole or not at all, and holds what was written."""

import os
import resource
import signal

import numpy as np
import pytest

from config.errors import UserError
from engine.evaluation.scores.file import ScoreFile


def test_pieces_in_any_order_make_one_plain_npz(tmp_path):
    scores = np.random.default_rng(0).random((5, 8)).astype(np.float32)
    with ScoreFile(tmp_path / "new folder" / "scores.npz", 5, 8) as file:
        for images, captions in [([3, 0], [7, 1, 2]), ([3, 0], [0, 3, 4, 5, 6]), ([1, 2, 4], np.arange(8))]:
            file.write(np.array(images), np.array(captions), scores[np.ix_(images, captions)])
        file.save(["a", "b", "ü", "d", "e"], ["a"] * 8)
    with np.load(tmp_path / "new folder" / "scores.npz", allow_pickle=False) as saved:
        assert set(saved.files) == {"scores", "image_ids", "caption_image_ids"}
        assert saved["scores"].dtype == np.float32
        np.testing.assert_array_equal(saved["scores"], scores)
        assert saved["image_ids"].tolist() == ["a", "b", "ü", "d", "e"]
        assert saved["caption_image_ids"].tolist() == ["a"] * 8
    assert os.listdir(tmp_path / "new folder") == ["scores.npz"]


def test_an_interrupted_evaluation_leaves_the_old_file(tmp_path):
    target = tmp_path / "scores.npz"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        with ScoreFile(target, 2, 2):
            raise KeyboardInterrupt
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["scores.npz"]


def test_a_full_disk_is_found_before_any_work_and_leaves_the_old_file(tmp_path):
    target = tmp_path / "scores.npz"
    target.write_text("old")
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        with pytest.raises(
            UserError, match=r"cannot write the scores to .*scores.npz: File too large; .* 0.8 MB"
        ):
            with ScoreFile(target, 100, 1000):
                pytest.fail("entered")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["scores.npz"]


def test_a_folder_is_no_place_for_the_file(tmp_path):
    with pytest.raises(UserError, match="it is a folder"):
        with ScoreFile(tmp_path, 2, 2):
            pytest.fail("entered")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the scores to .*file/scores.npz: .*another place"):
        with ScoreFile(tmp_path / "file" / "scores.npz", 2, 2):
            pytest.fail("entered")
