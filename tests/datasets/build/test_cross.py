"""The configuration's keys reach the pairs: words, tags, regions, splits in VinVL's layout, candidates."""

import json

import numpy as np
import pytest

from config.errors import UserError
from config.load import load_config
from datasets.build.cross import (
    build_candidates,
    build_pair_sampler,
    build_word_piece,
    open_pair_split,
    pair_dataset_of,
)
from datasets.pairs import Pairs
from datasets.words.wordpiece import MARKERS, WordPiece
from tests.region_files import make_regions, write_tsv

BASE = [
    "MODEL.NAME=oscar",
    "LOSS.NAME=match_cross_entropy",
    "INPUT.MAX_SEQ_LEN=20",
    "INPUT.VOCAB_THRESHOLD=1",
]
CAPTIONS = {
    "image 2": ["a dog", "two dogs", "dogs"],
    "image 0": ["A tree"],
    "image 1": ["a café", "a light"],
}


@pytest.fixture
def vinvl(tmp_path):
    """Return a function from settings to the configuration of a folder in VinVL's layout."""
    write_tsv(tmp_path / "features.tsv", make_regions([3, 5, 2]), "vinvl")
    for split in ("train", "minival"):
        (tmp_path / f"{split}_captions.json").write_text(json.dumps(CAPTIONS))

    def config(*settings):
        data = [f"DATASET.DATA_DIR={tmp_path}", "DATASET.FORMAT=vinvl", "DATASET.FEAT_FILE=features.tsv"]
        return load_config(None, [*BASE, *data, "INPUT.IMG_FEATURE_DIM=6", *settings])

    return config


@pytest.fixture
def precomp_pairs(precomp):
    """Return a function from settings to the configuration of four images of three regions."""
    rows = np.random.default_rng(0).normal(size=(4, 3, 6)).astype(np.float32)
    folder = precomp(features=rows)
    (folder / "train_class.txt").write_text("beach\npark\nstorage_tanks\nbeach\n")

    def config(*settings):
        return load_config(None, [*BASE, f"DATASET.DATA_DIR={folder}", "INPUT.IMG_FEATURE_DIM=6", *settings])

    return config


def texts(dataset, pairs: Pairs) -> list[str]:
    """Return the text of each pair, as its tokens spell it."""
    batch = dataset.batch(pairs)
    return [
        " ".join(dataset.word_piece.pieces[index] for index in row[:length])
        for row, length in zip(batch["token_ids"], batch["text_len"], strict=True)
    ]


def first_pair(dataset) -> str:
    return texts(dataset, Pairs(np.array([0]), np.array([0])))[0]


def test_words_are_those_of_the_training_captions_and_tags(vinvl):
    cfg = vinvl()
    pieces = build_word_piece(cfg, open_pair_split(cfg, "train", training=True)).pieces
    assert pieces[: len(MARKERS)] == list(MARKERS)
    tags = {word for image in make_regions([3, 5, 2]).values() for tag in image.tags for word in tag.split()}
    words = {word.lower() for captions in CAPTIONS.values() for text in captions for word in text.split()}
    plain = {word.replace("é", "e") for word in tags | words}
    assert set(pieces[len(MARKERS) :]) == plain
    cfg = vinvl("INPUT.DO_LOWER_CASE=false", "INPUT.ADD_OD_LABEL=false")
    cased = build_word_piece(cfg, open_pair_split(cfg, "train", training=True)).pieces
    assert {"A", "café"} <= set(cased) and "traffic" not in cased


def test_a_vocabulary_file_gives_the_words(vinvl, tmp_path):
    WordPiece([*MARKERS, "dog"]).save(tmp_path / "vocab.txt")
    cfg = vinvl(f"INPUT.VOCAB_FILE={tmp_path / 'vocab.txt'}")
    assert len(build_word_piece(cfg, open_pair_split(cfg, "train", training=True))) == 5


def test_each_key_has_its_effect_on_a_pair(vinvl):
    cfg = vinvl("INPUT.MAX_REGION=1", "INPUT.MAX_SEQ_LEN=6")
    split = open_pair_split(cfg, "train", training=True)
    words = build_word_piece(cfg, split)
    dataset = pair_dataset_of(cfg, split, words)
    tags = " ".join(make_regions([3, 5, 2])["image 2"].tags).replace("é", "e")
    assert first_pair(dataset) == " ".join([*f"[CLS] a dog [SEP] {tags}".split()[:5], "[SEP]"])
    assert dataset.batch(Pairs(np.array([0]), np.array([0])))["regions"].shape == (1, 1, 6)
    bare = vinvl("INPUT.ADD_OD_LABEL=false")
    plain = pair_dataset_of(bare, open_pair_split(bare, "train", training=False), words)
    assert first_pair(plain) == "[CLS] a dog [SEP]"


def test_splits_are_limited_as_vinvl_limits_them(vinvl, tmp_path):
    (tmp_path / "minival_keys.tsv").write_text("image 1\nimage 2\n")
    limits = ["INPUT.NUM_CAPTIONS_PER_IMAGE_TRN=1", "INPUT.NUM_CAPTIONS_PER_IMAGE_DEV=2"]
    cfg = vinvl(*limits, "EVAL.EVAL_IMG_KEYS_FILE={split}_keys.tsv")
    training = open_pair_split(cfg, "train", training=True).captions
    assert training.image_ids == list(CAPTIONS) and training.captions == ["a dog", "A tree", "a café"]
    dev = open_pair_split(cfg, "minival", training=False).captions
    assert dev.image_ids == ["image 1", "image 2"]
    assert dev.captions == ["a café", "a light", "a dog", "two dogs"]
    first = open_pair_split(vinvl(), "minival", training=False, num_images=2).captions
    assert first.image_ids == ["image 2", "image 0"]
    assert first.captions == ["a dog", "two dogs", "dogs", "A tree"]
    assert first.caption_image.tolist() == [0, 0, 0, 1] and first.image_rows.tolist() == [2, 0]


def test_candidates_come_from_the_splits_index(vinvl, tmp_path):
    lists = {key: [["image 2", 2], ["image 0", 0], ["image 1", 1]] for key in CAPTIONS}
    (tmp_path / "minival_index.json").write_text(json.dumps(lists))
    index = ["EVAL.EVAL_CROSS_IMAGE=false", "EVAL.EVAL_CAPTION_INDEX_FILE={split}_index.json"]
    cfg = vinvl(*index, "INPUT.NUM_CAPTIONS_PER_IMAGE_DEV=2")
    split = open_pair_split(cfg, "minival", training=False)
    assert len(split.captions.captions) == 6, "the number is that of the candidates"
    pairs = build_candidates(cfg, split)
    assert pairs.images.tolist() == [0, 0, 1, 1, 2, 2] and pairs.captions.tolist() == [2, 3] * 3
    assert build_candidates(vinvl(), split) is None


def test_classes_stand_in_for_tags(precomp_pairs):
    cfg = precomp_pairs("DATASET.TAG_FILE={split}_class.txt")
    split = open_pair_split(cfg, "train", training=True)
    dataset = pair_dataset_of(cfg, split, build_word_piece(cfg, split))
    found = texts(dataset, Pairs(np.array([0, 2]), np.array([0, 1])))
    assert found == [
        "[CLS] a dog number 0 [SEP] beach [SEP]",
        "[CLS] a dog number 1 [SEP] storage tanks [SEP]",
    ]


@pytest.mark.parametrize(
    ("settings", "fragments"),
    [
        ([], ["train_ims.npy: no tags of the image '0'", "INPUT.ADD_OD_LABEL=False"]),
        (
            ["DATASET.TAG_FILE=tags.json"],
            ["tags.json: expected a detector's predictions", "DATASET.TAG_FILE"],
        ),
        (["DATASET.TAG_FILE=tags.txt"], ["tags.txt: no such file, expected the tags of train"]),
        (
            ["INPUT.ADD_OD_LABEL=false", "INPUT.IMG_FEATURE_DIM=5"],
            ["train_ims.npy: features are 6 wide, but INPUT.IMG_FEATURE_DIM is 5"],
        ),
    ],
)
def test_what_does_not_fit_is_one_line(precomp_pairs, settings, fragments):
    cfg = precomp_pairs(*settings)
    with pytest.raises(UserError) as error:
        build_word_piece(cfg, open_pair_split(cfg, "train", training=True))
    assert "\n" not in str(error.value)
    for fragment in fragments:
        assert fragment in str(error.value)


def test_pickled_captions_name_the_tool_that_converts_them(vinvl, tmp_path):
    (tmp_path / "test_captions.pt").write_bytes(b"")
    with pytest.raises(
        UserError,
        match=r"test_captions.json: no such file.*tools/convert_weights.py .*\.pt .*DATASET.CAPTION_FILE",
    ):
        open_pair_split(vinvl(), "test", training=False)


def test_a_sampler_serves_each_process(precomp_pairs):
    cfg = precomp_pairs(
        "INPUT.ADD_OD_LABEL=false", "OPTIMIZATION.BATCH_SIZE=2", "OPTIMIZATION.BATCHING=random"
    )
    split = open_pair_split(cfg, "train", training=True)
    dataset = pair_dataset_of(cfg, split, build_word_piece(cfg, split))
    shares = [build_pair_sampler(cfg, dataset, None, rank, 2).batches(0) for rank in range(2)]
    right = [pairs.captions[: len(pairs) // 2] for share in shares for pairs in share]
    assert sorted(np.concatenate(right)) == list(range(8))
    with pytest.raises(UserError, match="8 captions of train for 9 processes"):
        build_pair_sampler(cfg, dataset, None, 0, 9)
