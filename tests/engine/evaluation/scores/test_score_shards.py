"""Shards of scores: a killed evaluation goes on, and nothing foreign or damaged is taken for its own."""

import os
import resource
import signal

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from config.errors import UserError
from engine.evaluation.cross import cross_blocks, rank_cross
from engine.evaluation.pair_scoring import data_identity, pairs_identity, score_blocks
from engine.evaluation.scores.shards import IDENTITY, ScoreShards
from tests.pair_data import PlainScorer, pair_dataset


@pytest.fixture
def dataset(tmp_path):
    return pair_dataset(tmp_path)


def identity_of(dataset, blocks, checkpoint="abc"):
    return {
        "checkpoint": checkpoint,
        "model": "m",
        "data": data_identity(dataset),
        "pairs": pairs_identity(blocks),
    }


class Killed(PlainScorer):
    """Stop in the midst of the third block."""

    def score_pairs(self, batch):
        if self.pairs >= 110:
            raise KeyboardInterrupt
        return super().score_pairs(batch)


def test_a_killed_evaluation_goes_on_with_the_block_it_was_at(dataset, tmp_path):
    blocks, folder = cross_blocks(dataset, 1, 40), tmp_path / "scores"
    identity = identity_of(dataset, blocks)
    with pytest.raises(KeyboardInterrupt):
        score_blocks(Killed(), dataset, blocks, ScoreShards(folder, identity, len(blocks)), 100)
    (folder / ".block_0000002.safetensors.99.new").write_bytes(b"cut")  # what a kill may leave
    again = ScoreShards(folder, identity, len(blocks))
    assert again.missing() == list(range(2, len(blocks)))
    model = PlainScorer()
    score_blocks(model, dataset, blocks, again, 100)
    assert model.pairs == blocks.num_pairs - 80
    undisturbed = ScoreShards(tmp_path / "other", identity, len(blocks))
    score_blocks(PlainScorer(), dataset, blocks, undisturbed, 100)
    results = [rank_cross(blocks, store, dataset, "test") for store in (again, undisturbed)]
    assert results[0].metrics == results[1].metrics
    again.delete()
    assert not folder.exists()


def test_processes_share_the_blocks(dataset, tmp_path):
    blocks = cross_blocks(dataset, 2, 30)
    identity = identity_of(dataset, blocks)
    stores = [ScoreShards(tmp_path / "scores", identity, len(blocks)) for _ in range(2)]
    todo = [store.missing()[rank::2] for rank, store in enumerate(stores)]
    models = PlainScorer(), PlainScorer()
    for model, store, share in zip(models, stores, todo, strict=True):
        score_blocks(model, dataset, blocks, store, 100, share)
    stores[0].wait()
    assert models[0].pairs + models[1].pairs == blocks.num_pairs and min(m.pairs for m in models) > 0
    assert sum(len(stores[0].read(index)) for index in range(len(blocks))) == blocks.num_pairs


@pytest.mark.parametrize("key", list(IDENTITY))
def test_shards_of_another_evaluation_are_refused(dataset, tmp_path, key):
    blocks = cross_blocks(dataset, 1, 1000)
    identity = identity_of(dataset, blocks)
    ScoreShards(tmp_path / "scores", identity, len(blocks)).write(0, np.zeros(5, np.float32))
    with pytest.raises(
        UserError, match=f"the scores of {IDENTITY[key].split('(')[0]}.*delete the folder"
    ) as error:
        ScoreShards(tmp_path / "scores", identity | {key: "other"}, len(blocks))
    assert "\n" not in str(error.value)


def test_data_and_pairs_are_told_apart(dataset, tmp_path):
    (tmp_path / "other").mkdir()
    other = pair_dataset(tmp_path / "other", seed=1)
    assert data_identity(dataset) != data_identity(other)
    assert data_identity(dataset) != data_identity(dataset.with_texts(["word1 word2"]))
    (tmp_path / "same").mkdir()
    assert data_identity(dataset) == data_identity(pair_dataset(tmp_path / "same"))
    kinds = [cross_blocks(dataset, folds, size) for folds, size in ((1, 40), (1, 41), (2, 40))]
    assert len({pairs_identity(blocks) for blocks in kinds}) == 3


@pytest.mark.parametrize("damage", ["cut", "bits", "empty", "name"])
def test_a_damaged_shard_is_refused_and_named(tmp_path, damage):
    identity = dict.fromkeys(IDENTITY, "x")
    shards = ScoreShards(tmp_path, identity, 2)
    for block in range(2):
        shards.write(block, np.arange(50, dtype=np.float32))
    path = tmp_path / "block_0000001.safetensors"
    content = path.read_bytes()
    damaged = {"cut": content[:-20], "bits": content[:-4] + b"\0\0\0\0", "empty": b""}
    damaged["name"] = content.replace(b'"scores"', b'"scared"')
    path.write_bytes(damaged[damage])
    with pytest.raises(
        UserError, match="block_0000001.safetensors: damaged scores .*delete this file"
    ) as error:
        ScoreShards(tmp_path, identity, 2).read(1)
    assert "\n" not in str(error.value)
    path.unlink()
    assert ScoreShards(tmp_path, identity, 2).missing() == [1]


def test_a_file_that_somebody_else_put_there_is_refused(tmp_path):
    save_file({"weights": np.zeros(3, np.float32)}, tmp_path / "block_0000000.safetensors")
    assert load_file(tmp_path / "block_0000000.safetensors")
    with pytest.raises(UserError, match="the scores of another checkpoint"):
        ScoreShards(tmp_path, dict.fromkeys(IDENTITY, "x"), 1)


def test_a_full_disk_keeps_what_was_scored(tmp_path):
    shards = ScoreShards(tmp_path / "scores", dict.fromkeys(IDENTITY, "x"), 2)
    shards.write(0, np.zeros(10, np.float32))
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        with pytest.raises(UserError, match="cannot write .*block_0000001.* File too large; .* are kept"):
            shards.write(1, np.zeros(1000, np.float32))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert shards.missing() == [1] and os.listdir(tmp_path / "scores") == ["block_0000000.safetensors"]
