"""Pairs of captions, tags and regions are those that the original Oscar feeds its model."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from datasets.captions.load import CaptionSplit
from datasets.captions.tags import tags_of_features
from datasets.captions.vinvl import load_vinvl_captions, read_caption_index
from datasets.features.box_terms import open_regions
from datasets.pair_dataset import PairDataset
from datasets.pairs import CrossPairs, Pairs
from datasets.words.wordpiece import WordPiece

TOKENS, REGIONS, WIDTH = 24, 10, 54  # max_seq_length, max_img_seq_length, img_feature_dim
CROSS = ("input_ids", "segment_ids", "attention_mask", "img_feats")  # of all pairs, in the original's order


@pytest.fixture(scope="module")
def oscar(shared):
    return shared / "fixtures/oscar"


@pytest.fixture(scope="module")
def golden(oscar):
    return np.load(oscar / "oscar.npz")


@pytest.fixture(scope="module")
def story(oscar):
    """Captions, tags and the original's tokens."""
    return json.loads((oscar / "oscar.json").read_text())


@pytest.fixture
def open_dataset(oscar, story, tmp_path):
    """Opener of the fixture's data set, in VinVL's layout; the split comes with it."""
    path = tmp_path / "test_captions.json"
    path.write_text(json.dumps(story["captions"]))
    features = open_regions(oscar / "features.tsv", WIDTH)
    word_piece = WordPiece.load(oscar / "vocab.txt")

    def open_as_vinvl(tags: bool = True, keys_path: Path | None = None) -> tuple[PairDataset, CaptionSplit]:
        split = load_vinvl_captions(path, features, keys_path)
        tags_of = tags_of_features(features, split) if tags else None
        return PairDataset(features, split, word_piece, tags_of, TOKENS, REGIONS), split

    return open_as_vinvl


def in_order(num_images: int, num_captions: int) -> Pairs:
    """The pairs of the original's RetrievalDataset."""
    return Pairs(np.repeat(np.arange(num_images), num_captions), np.tile(np.arange(num_captions), num_images))


def check(batch: dict, ids: np.ndarray, segments: np.ndarray, mask: np.ndarray, regions: np.ndarray | None):
    """Compare a batch with the original's, which pads to the fullest."""
    width = batch["token_ids"].shape[1]
    assert width == batch["text_len"].max()
    np.testing.assert_array_equal(batch["token_ids"], ids[:, :width])
    np.testing.assert_array_equal(batch["segment_ids"], segments[:, :width])
    assert not ids[:, width:].any() and not segments[:, width:].any()
    np.testing.assert_array_equal(np.arange(TOKENS) < batch["text_len"][:, None], mask[:, :TOKENS])
    rows = batch["image_row"]
    np.testing.assert_array_equal(np.arange(REGIONS) < batch["num_regions"][rows][:, None], mask[:, TOKENS:])
    assert len(batch["regions"]) == len(set(batch["image_id"]))  # each image once
    if regions is not None:
        found = np.zeros_like(regions)
        found[:, : batch["regions"].shape[1]] = batch["regions"][rows]
        np.testing.assert_array_equal(found, regions)


def test_the_originals_tokens(oscar, story):
    word_piece = WordPiece.load(oscar / "vocab.txt")
    for text, tokens in story["tokenized"].items():
        assert [word_piece.pieces[index] for index in word_piece.encode(text)[1:-1]] == tokens


def test_all_cross_pairs(open_dataset, golden):
    dataset, _ = open_dataset()
    batch = dataset.batch(in_order(4, 20))
    check(batch, *(golden[name] for name in CROSS))
    np.testing.assert_array_equal(batch["match"], golden["labels"])


def test_blocks_hold_all_cross_pairs_once(open_dataset, golden):
    dataset, _ = open_dataset()
    blocks = CrossPairs(
        *(np.arange(4), np.arange(20), dataset.image_lengths, dataset.caption_lengths), block_pairs=24
    )
    seen = []
    for index in range(len(blocks)):
        for pairs in blocks.block(index).batches(7):
            batch = dataset.batch(pairs)
            places = pairs.images * 20 + pairs.captions
            seen += places.tolist()
            check(
                batch,
                *(golden[name][places] for name in CROSS),
            )
            np.testing.assert_array_equal(batch["match"], golden["labels"][places])
    assert sorted(seen) == list(range(80))


def test_without_tags(open_dataset, golden):
    batch = open_dataset(tags=False)[0].batch(in_order(4, 20)[:8])
    check(batch, golden["noTags_input_ids"], golden["noTags_segment"], golden["noTags_mask"], None)


def test_candidates_of_a_caption_index_file(open_dataset, golden, tmp_path):
    dataset, split = open_dataset()
    # the fixture's file: the first two captions of every image, for every image
    entries = [[int(key), number] for number in range(2) for key in dataset.image_ids]
    path = tmp_path / "minival_caption_indexs_top8.json"
    path.write_text(json.dumps(dict.fromkeys(dataset.image_ids, entries)))
    pairs = read_caption_index(path, split, candidates=8)
    batch = dataset.batch(pairs)
    np.testing.assert_array_equal(batch["match"], golden["rerank_labels"])
    places = pairs.images * 20 + pairs.captions
    np.testing.assert_allclose(golden["probs"][places], golden["rerank_probs"], atol=1e-6)
    check(
        batch,
        *(golden[name][places] for name in CROSS),
    )


def test_a_list_of_image_keys_orders_images_and_captions(open_dataset, golden, oscar):
    dataset, _ = open_dataset(keys_path=oscar / "test_img_keys.tsv")
    assert dataset.image_ids == ["103", "101", "102"]
    pairs = in_order(3, 15)
    whole = np.array([2, 0, 1])  # their places among all images
    caption_places = whole[pairs.captions // 5] * 5 + pairs.captions % 5
    places = whole[pairs.images] * 20 + caption_places
    np.testing.assert_allclose(golden["probs"][places], golden["subset_probs"], atol=1e-6)
    check(
        dataset.batch(pairs),
        *(golden[name][places] for name in CROSS),
    )


def test_training_batches_for_the_originals_draws(open_dataset, golden, oscar):
    """Its generator, in its order of calls, with our data: the rule is the same."""
    dataset, _ = open_dataset()
    draws = random.Random(json.loads((oscar / "train_sampling.json").read_text())["python_random_seed"])
    for step in range(4):
        images, captions, wrong_images, wrong_captions = [], [], [], []
        for index in range(4 * step, 4 * step + 4):
            image = index // 5
            other = draws.choice([number for number in range(4) if number != image])
            images.append(image)
            captions.append(index)
            if draws.random() <= 0.5:
                wrong_images.append(image)
                wrong_captions.append(5 * other + draws.randint(0, 4))
            else:
                wrong_images.append(other)
                wrong_captions.append(index)
        batch = dataset.batch(Pairs(np.array(images + wrong_images), np.array(captions + wrong_captions)))
        names = ("input_ids", "token_type_ids", "attention_mask", "img_feats")
        check(batch, *(golden[f"train_b{step}_{name}"] for name in names))
        np.testing.assert_array_equal(batch["match"], golden[f"train_b{step}_labels"])


def test_features_with_the_terms_of_boxes_added_are_those_that_have_them(shared, tmp_path):
    folder = shared / "data/natural_regions_precomp"
    written = open_regions(shared / "data/natural_oscar/dev_features.tsv", 262)
    sizes = [written.annotations(row).image_size for row in range(len(written))]
    for name in ("ims.npy", "boxes.npy", "ids.txt"):
        (tmp_path / f"dev_{name}").symlink_to(folder / f"dev_{name}")
    np.save(tmp_path / "dev_sizes.npy", sizes)
    ours = open_regions(tmp_path / "dev_ims.npy", 262)
    for row in range(len(ours)):
        count = int(written.counts(np.array([row]))[0])
        np.testing.assert_allclose(ours[row].features[:count], written[row].features, rtol=0, atol=1e-6)
