"""Tokens, vocabularies and batches agree with what the original implementations compute."""

import json

import numpy as np
import pytest

from config.load import load_config
from datasets.build.dual import build_dataset, build_vocabulary
from datasets.words.tokens import tokenize
from datasets.words.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def fixture(shared):
    return json.loads((shared / "fixtures/text/text.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def dataset(shared):
    """The fixture's training split, and the original's vocabulary of training and dev words."""
    cfg = load_config(
        None,
        [
            f"DATASET.DATA_DIR={shared / 'fixtures/text/f30k_precomp'}",
            "INPUT.IMG_FEATURE_DIM=6",
            "INPUT.TOKENIZER=nltk",
            "INPUT.VOCAB_SPLITS=[train,dev]",
        ],
    )
    dataset = build_dataset(cfg, "train", build_vocabulary(cfg), training=True)
    dataset.pool_regions = False
    return dataset


def test_tokens(fixture):
    assert [tokenize(caption, "nltk") for caption in fixture["captions"]] == fixture["tokens"]


def test_vocabulary_words_threshold_and_order(fixture, dataset):
    assert dataset.vocabulary.words == list(fixture["word2idx"])


def test_ids_of_every_caption_and_the_image_it_belongs_to(fixture, dataset):
    assert dataset.captions == [caption.strip() for caption in fixture["captions"]]
    assert [dataset.vocabulary.encode(caption) for caption in dataset.captions] == fixture["ids"]
    assert dataset.caption_image.tolist() == fixture["img_id"]


def test_a_batch_in_the_originals_order_is_their_collated_batch(shared, dataset):
    collated = np.load(shared / "fixtures/text/collate.npz")
    order = np.argsort(-dataset.lengths, kind="stable")  # the original sorts, ours leaves the order
    batch = dataset.batch(order)
    assert order.tolist() == collated["ids"].tolist()
    np.testing.assert_array_equal(batch["token_ids"], collated["targets"])
    np.testing.assert_array_equal(batch["text_len"], collated["lengths"])
    np.testing.assert_array_equal(batch["regions"][batch["image_row"]], collated["images"])


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("f8k_precomp_vocab.json", 3159),
        ("f30k_precomp_vocab.json", 8481),
        ("coco_precomp_vocab.json", 11353),
        ("rsicd_precomp_vocab_upstream.json", 1226),
    ],
)
def test_released_vocabularies_load(shared, name, size):
    path = shared / "data/vocab" / name
    vocabulary = Vocabulary.load(path)
    word2idx = json.loads(path.read_text(encoding="utf-8"))["word2idx"]
    assert len(vocabulary) == size
    tokens = [word2idx.get(token, word2idx["<unk>"]) for token in ("many", "yellow", "planes", "qwxz")]
    framed = vocabulary.encode("many yellow planes qwxz")
    if "<start>" in word2idx:
        tokens = [word2idx["<start>"], *tokens, word2idx["<end>"]]
    assert framed == tokens


def test_vse_dictionary(shared):
    """Words are counted and ordered by frequency; equals have no defined order in the original."""
    fixture = json.loads((shared / "fixtures/kiros/dictionary.json").read_text())
    vocabulary = Vocabulary.build(fixture["text"], "whitespace", 1, "vse")
    counts, words = fixture["counts"], vocabulary.words[2:]
    assert set(words) == set(fixture["worddict"])
    assert [counts[word] for word in words] == [counts[word] for word in fixture["worddict"]]


def test_vse_batch_of_one_length(shared):
    fixture = json.loads((shared / "fixtures/kiros/dictionary.json").read_text())
    # the original reads ids from n_words on as unknown, here its last two words
    known = {word: index for word, index in fixture["worddict"].items() if index < fixture["n_words"]}
    vocabulary = Vocabulary(["<end>", "<unk>", *known], "whitespace", "vse", 1)
    encoded = [vocabulary.encode(caption) for caption in fixture["prepare_data_caps"]]
    assert np.transpose(encoded).tolist() == fixture["x"]
