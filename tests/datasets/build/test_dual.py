"""The configuration's keys reach the data, and folders that do not fit it are refused."""

import numpy as np
import pytest

from config.errors import UserError
from config.load import load_config
from datasets.build.dual import build_dataset, build_sampler, build_vocabulary
from tests.closeness import assert_close


def config(folder, *overrides):
    return load_config(None, [f"DATASET.DATA_DIR={folder}", "INPUT.IMG_FEATURE_DIM=6", *overrides])


def test_the_vocabulary_reads_the_training_split_alone(precomp):
    precomp(captions=["a dog"] * 8)
    folder = precomp(split="dev", captions=["a zebra"] * 8)
    assert "zebra" not in build_vocabulary(config(folder)).words
    assert "zebra" in build_vocabulary(config(folder, "INPUT.VOCAB_SPLITS=[train,dev]")).words


def test_a_vocabulary_file_must_have_the_configured_tokenizer(precomp):
    folder = precomp(captions=["a dog"] * 8)
    path = folder / "vocab.json"
    build_vocabulary(config(folder)).save(path)
    assert len(build_vocabulary(config(folder, f"INPUT.VOCAB_FILE={path}"))) == 6
    with pytest.raises(
        UserError, match=r"vocab.json: made with the tokenizer simple.*TOKENIZER is whitespace"
    ):
        build_vocabulary(config(folder, f"INPUT.VOCAB_FILE={path}", "INPUT.TOKENIZER=whitespace"))


def test_long_captions_are_dropped_in_training_only(precomp):
    folder = precomp(captions=["a dog"] * 7 + ["a dog and a dog and a dog"])
    cfg = config(folder, "INPUT.MAX_SEQ_LEN=6", "INPUT.LONG_CAPTIONS=drop")
    vocabulary = build_vocabulary(cfg)
    assert build_dataset(cfg, "train", vocabulary, training=True).num_captions == 7
    assert build_dataset(cfg, "train", vocabulary, training=False).num_captions == 8


def test_repeated_sentences_are_left_out_in_training_only(precomp):
    folder = precomp(captions=["a dog"] * 8)
    cfg = config(folder, "DATASET.DISTINCT_CAPTIONS=true")
    vocabulary = build_vocabulary(cfg)
    assert build_dataset(cfg, "train", vocabulary, training=True).num_captions == 4
    assert build_dataset(cfg, "train", vocabulary, training=False).num_captions == 8


def test_a_sampler_serves_each_process_from_the_configured_batches(precomp):
    folder = precomp(captions=["a dog"] * 8)
    cfg = config(folder, "OPTIMIZATION.BATCH_SIZE=2", "OPTIMIZATION.BATCHING=random")
    dataset = build_dataset(cfg, "train", build_vocabulary(cfg), training=True)
    shares = [build_sampler(cfg, dataset, rank, 2).batches(0) for rank in range(2)]
    assert sorted(np.concatenate(shares[0] + shares[1])) == list(range(8))
    with pytest.raises(UserError, match="8 captions of train for 9 processes, expected at least 9"):
        build_sampler(cfg, dataset, 0, 9)


def test_another_feature_width_names_the_file_and_the_override(precomp):
    folder = precomp(features=np.ones((4, 1280), np.float16), captions=["a dog"] * 8)
    cfg = config(folder)
    with pytest.raises(
        UserError, match=r"train_ims.npy: features are 1280 wide.*is 6: add INPUT.IMG_FEATURE_DIM=1280"
    ):
        build_dataset(cfg, "train", build_vocabulary(cfg), training=True)


def test_features_come_from_the_file_that_is_configured(precomp):
    rows = np.arange(24, dtype=np.float32).reshape(4, 6)
    folder = precomp(features=rows, ids=list("abcd"))
    precomp(split="dev", features=rows[:2], ids=["d", "b"])
    np.save(folder / "feats_train.npy", rows + 100)
    np.save(folder / "all.npy", rows[::-1])
    (folder / "all_ids.txt").write_text("d\nc\nb\na\n")
    cfg = config(folder)
    vocabulary = build_vocabulary(config(folder, "INPUT.VOCAB_THRESHOLD=1"))
    for feat_file, split, expected in (
        ("", "train", rows),
        ("{split}_ims.npy", "train", rows),
        ("feats_{split}.npy", "train", rows + 100),
        ("all.npy", "train", rows),
        ("all.npy", "dev", rows[[3, 1]]),
    ):
        cfg = config(folder, f"DATASET.FEAT_FILE={feat_file}")
        dataset = build_dataset(cfg, split, vocabulary, training=False)
        images = np.arange(dataset.num_images)
        np.testing.assert_array_equal(dataset.image_batch(images)["features"], expected)
        mean, _ = dataset.feature_moments()
        assert_close(mean, expected.mean(axis=0), len(expected), np.abs(expected).max(axis=0))
    with pytest.raises(UserError, match="none.h5: no such file, expected the features of train"):
        build_dataset(config(folder, "DATASET.FEAT_FILE=none.h5"), "train", vocabulary, training=True)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["DATASET.DATA_DIR="], "DATASET.DATA_DIR is empty"),
        (["DATASET.DATA_DIR=no/such"], r"no/such: no such folder.*DATASET.DATA_DIR"),
        (["DATASET.DATA_DIR=data/x", "DATASET.NAME=scenes"], "run python tools/make_scenes.py --out data/x"),
        (["DATASET.TRAIN=training"], "training_caps.txt: no such file"),
    ],
)
def test_missing_data_says_what_to_do(precomp, overrides, expected):
    with pytest.raises(UserError, match=expected):
        build_vocabulary(config(precomp(), *overrides))


@pytest.mark.parametrize("batching", ["random", "bucket", "same_length"])
def test_rsicd_goes_through(shared, batching):
    folder = shared / "data/rsicd_precomp"
    cfg = config(folder, "INPUT.IMG_FEATURE_DIM=1280", f"OPTIMIZATION.BATCHING={batching}")
    vocabulary = build_vocabulary(cfg)
    train = build_dataset(cfg, "train", vocabulary, training=True)
    test = build_dataset(cfg, "test", vocabulary, training=False)
    assert (train.num_images, train.num_captions) == (8734, 43670)
    assert (test.num_images, test.num_captions) == (1093, 5465)
    assert np.bincount(test.caption_image).tolist() == [5] * 1093

    sampler = build_sampler(cfg, train)
    batches = sampler.batches(0)
    computed = sum(len(batch) * train.lengths[batch].max() for batch in batches)
    real = sum(train.lengths[batch].sum() for batch in batches)
    assert computed / real - 1 < {"random": 1.2, "bucket": 0.03, "same_length": 1e-9}[batching]

    batch = train.batch(batches[0])
    stored = np.load(folder / "train_ims.npy")
    np.testing.assert_array_equal(batch["features"], stored[batch["image_id"]].astype(np.float32))
    for row, index in enumerate(batches[0]):
        ids = vocabulary.encode(train.captions[index])
        assert batch["token_ids"][row, : len(ids)].tolist() == ids
        assert batch["image_id"][row] == index // 5
