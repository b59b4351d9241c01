"""A batch of pairs is what plain loops assemble, with each image read once."""

import numpy as np
import pytest

from datasets.captions.load import CaptionSplit
from datasets.features.npy import NpyFeatures
from datasets.features.tsv import TsvFeatures
from datasets.pair_dataset import PairDataset
from datasets.pairs import Pairs
from datasets.words.wordpiece import MARKERS, WordPiece
from tests.region_files import make_regions, write_tsv

WORDS = ["a", "dog", "tree", "red", "blue", "traffic", "light", "cafe"]
CAPTIONS = [
    "a dog",
    "a Dog",  # the same to a model that lower-cases
    "red blue red blue red",
    "a red tree a blue tree a red light a blue light a dog a dog",
    "zebra",
    "tree",
]
CAPTION_IMAGE = np.array([0, 1, 2, 2, 0, 1])
TAGS = [["dog", "traffic light"], [], ["tree"] * 9]


@pytest.fixture
def word_piece():
    return WordPiece([*MARKERS, *WORDS])


@pytest.fixture
def features(tmp_path):
    return TsvFeatures(write_tsv(tmp_path / "features.tsv", make_regions([3, 5, 2, 4]), "vinvl"))


def dataset_of(features, word_piece, tags=TAGS, max_seq_len=12, max_regions=4) -> PairDataset:
    rows = np.array([1, 3, 0])
    split = CaptionSplit("dev", ["x", "y", "z"], rows, CAPTIONS, CAPTION_IMAGE)
    return PairDataset(features, split, word_piece, tags, max_seq_len, max_regions)


def plain_sequence(word_piece, caption: str, tags: list[str], max_seq_len: int) -> tuple[list, list]:
    """Token and segment ids as the original assembles them; without tags where it would have no room."""
    tokens = word_piece.encode(caption)[1:-1][: max_seq_len - 2]
    ids = [word_piece.cls_id, *tokens, word_piece.sep_id]
    segments = [0] * len(ids)
    second = word_piece.encode(" ".join(tags))[1:-1]
    room = max_seq_len - len(ids) - 1
    if second and room >= 0:
        ids += [*second[:room], word_piece.sep_id]
        segments += [1] * (len(ids) - len(segments))
    return ids, segments


@pytest.mark.parametrize("max_seq_len", [3, 4, 5, 8, 12, 17, 18, 19, 40])
@pytest.mark.parametrize("tags", [TAGS, None])
def test_every_pair_reads_as_plain_loops_write_it(features, word_piece, tags, max_seq_len):
    dataset = dataset_of(features, word_piece, tags, max_seq_len)
    pairs = Pairs(np.repeat(np.arange(3), 6), np.tile(np.arange(6), 3))
    batch = dataset.text_batch(pairs)
    plain = [
        plain_sequence(word_piece, CAPTIONS[caption], tags[image] if tags else [], max_seq_len)
        for image, caption in zip(pairs.images, pairs.captions, strict=True)
    ]
    width = max(len(ids) for ids, _ in plain)
    assert batch["token_ids"].shape == batch["segment_ids"].shape == (18, width)
    assert batch["text_len"].tolist() == [len(ids) for ids, _ in plain]
    for row, (ids, segments) in enumerate(plain):
        padding = [0] * (width - len(ids))
        assert batch["token_ids"][row].tolist() == ids + padding
        assert batch["segment_ids"][row].tolist() == segments + padding


def test_images_of_a_batch_are_read_once_and_cut_to_their_first_regions(features, word_piece):
    dataset = dataset_of(features, word_piece)
    batch = dataset.batch(Pairs(np.array([2, 0, 2, 2]), np.array([0, 0, 2, 4])))
    assert batch["image_row"].tolist() == [1, 0, 1, 1] and batch["num_regions"].tolist() == [4, 3]
    assert batch["regions"].shape == (2, 4, 6) and batch["regions"].dtype == np.float32
    images = make_regions([3, 5, 2, 4])
    np.testing.assert_array_equal(batch["regions"][0], images["image 1"].features[:4])
    np.testing.assert_array_equal(batch["regions"][1, :3], images["image 0"].features)
    assert not batch["regions"][1, 3:].any()
    assert batch["match"].tolist() == [0, 1, 1, 0]
    assert batch["image_id"].tolist() == [2, 0, 2, 2] and batch["caption_id"].tolist() == [0, 0, 2, 4]


def test_reads_of_features_are_as_many_as_different_images(features, word_piece, monkeypatch):
    dataset, read = dataset_of(features, word_piece), []
    gather = TsvFeatures.gather

    def count(store, rows, pool):
        read.append(rows.tolist())
        return gather(store, rows, pool)

    monkeypatch.setattr(TsvFeatures, "gather", count)
    dataset.batch(Pairs(np.array([1, 1, 1, 0, 1]), np.arange(5)))
    assert read == [[1, 3]]


def test_nothing_is_encoded_after_the_start(features, word_piece, monkeypatch):
    texts = []
    encode_all = WordPiece.encode_all

    def count(self, given):
        texts.extend(given)
        return encode_all(self, given)

    monkeypatch.setattr(WordPiece, "encode_all", count)
    dataset = dataset_of(features, word_piece)
    assert sorted(texts) == sorted([*CAPTIONS, "dog", "traffic light", "tree"])  # each different text once
    monkeypatch.setattr(WordPiece, "encode_all", None)
    monkeypatch.setattr(WordPiece, "encode", None)
    dataset.batch(Pairs(np.array([0, 1]), np.array([1, 0])))


def test_lengths_count_tokens_and_regions(features, word_piece):
    dataset = dataset_of(features, word_piece)
    pairs = Pairs(np.repeat(np.arange(3), 6), np.tile(np.arange(6), 3))
    batch = dataset.batch(pairs)
    expected = batch["text_len"] + batch["num_regions"][batch["image_row"]]
    assert dataset.pair_lengths(pairs).tolist() == expected.tolist()
    assert dataset.caption_lengths.tolist() == [4, 4, 7, 12, 3, 3]
    assert dataset.image_lengths.tolist() == [3 + 4, 4, 9 + 3]  # tokens of tags, and regions up to four


def test_equal_sentences_are_stored_once_and_known_as_such(features, word_piece):
    dataset = dataset_of(features, word_piece)
    assert dataset.sentence_ids.tolist() == [0, 0, 1, 2, 3, 4]
    assert dataset.distinct_captions.tolist() == [0, 2, 3, 4, 5]
    own = dataset.is_own_sentence(np.arange(3)[:, None], np.arange(6))
    assert own.astype(int).tolist() == [[1, 1, 0, 0, 1, 0], [1, 1, 0, 0, 0, 1], [0, 0, 1, 1, 0, 0]]
    assert "5 different sentences" in dataset.describe()


def test_other_texts_for_the_same_images(features, word_piece):
    dataset = dataset_of(features, word_piece)
    asked = dataset.with_texts(["a red light", "cafe"])
    batch = asked.batch(Pairs(np.array([0, 0, 2]), np.array([1, 0, 1])))
    plain = [
        plain_sequence(word_piece, *pair, 12)[0] for pair in (("cafe", TAGS[0]), ("a red light", TAGS[0]))
    ]
    for row, ids in enumerate(plain):
        assert batch["token_ids"][row, : batch["text_len"][row]].tolist() == ids
    assert not batch["match"].any() and len(batch["regions"]) == 2
    assert asked.captions == ["a red light", "cafe"] and dataset.captions == CAPTIONS
    assert not asked.is_own_sentence(np.arange(3)[:, None], np.arange(2)).any()
    before = dataset.batch(Pairs(np.array([0]), np.array([4])))
    assert before["text_len"].tolist() == [len(plain_sequence(word_piece, "zebra", TAGS[0], 12)[0])]


def test_a_global_vector_is_one_region(tmp_path, word_piece):
    values = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    np.save(tmp_path / "a_ims.npy", values)
    batch = dataset_of(NpyFeatures(tmp_path / "a_ims.npy"), word_piece).image_batch(np.array([0, 2]))
    np.testing.assert_array_equal(batch["regions"], values[[1, 0]][:, None])
    assert batch["num_regions"].tolist() == [1, 1]


def test_no_room_for_a_token_is_refused(features, word_piece):
    with pytest.raises(ValueError, match="max_seq_len=2"):
        dataset_of(features, word_piece, max_seq_len=2)
