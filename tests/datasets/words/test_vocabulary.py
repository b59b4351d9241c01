"""Tokens become ids, and a vocabulary survives its file."""

import json
import pickle

import pytest

from config.errors import UserError
from datasets.words.vocabulary import Vocabulary

CAPTIONS = ["a dog runs", "the dog runs fast", "a cat sleeps on the mat", "the cat", "a dog on the mat"]


def test_vsepp_layout_orders_words_by_first_sight():
    vocabulary = Vocabulary.build(CAPTIONS, "simple", 2, "vsepp")
    assert vocabulary.words == [
        "<pad>",
        "<start>",
        "<end>",
        "<unk>",
        "a",
        "dog",
        "runs",
        "the",
        "cat",
        "on",
        "mat",
    ]
    assert vocabulary.encode("a fast dog") == [1, 4, 3, 5, 2]
    assert vocabulary.decode([1, 4, 3, 5, 2, 0, 0]) == "a <unk> dog"
    assert vocabulary.pad_id == 0


def test_vse_layout_orders_words_by_frequency_and_has_no_start():
    vocabulary = Vocabulary.build(CAPTIONS, "whitespace", 1, "vse")
    assert vocabulary.words[:5] == ["<end>", "<unk>", "the", "a", "dog"]
    assert vocabulary.encode("a dog barks") == [3, 4, 1, 0]
    assert vocabulary.decode([3, 4, 0]) == "a dog"


def test_markers_in_captions_are_no_words():
    vocabulary = Vocabulary.build(["<unk> dog <end>"], "whitespace", 1, "vsepp")
    assert vocabulary.words == ["<pad>", "<start>", "<end>", "<unk>", "dog"]


@pytest.mark.parametrize(
    ("captions", "remedy"),
    [
        (["a dog"], "lower INPUT.VOCAB_THRESHOLD"),
        ([], "check the captions"),
        ([". . . ."], "check the captions"),
    ],
)
def test_a_vocabulary_without_words_is_refused(captions, remedy):
    with pytest.raises(UserError, match=f"train_caps.txt: a vocabulary without words.*{remedy}"):
        Vocabulary.build(captions, "simple", 4, "vsepp", "train_caps.txt")


@pytest.mark.parametrize("layout", ["vsepp", "vse"])
def test_a_saved_vocabulary_is_the_same_and_readable(tmp_path, layout):
    saved = Vocabulary.build([*CAPTIONS, "Zoë"], "simple", 1, layout)
    saved.save(tmp_path / "vocab.json")
    loaded = Vocabulary.load(tmp_path / "vocab.json")
    assert loaded.words == saved.words
    assert (loaded.tokenizer, loaded.layout, loaded.threshold) == ("simple", layout, 1)
    assert loaded.digest == saved.digest
    assert '\n  "zoë"' in (tmp_path / "vocab.json").read_text(encoding="utf-8")  # one word a line
    assert [path.name for path in tmp_path.iterdir()] == ["vocab.json"]  # nothing temporary is left


def test_the_digest_tells_vocabularies_apart():
    built = [
        Vocabulary.build(CAPTIONS, tokenizer, threshold, layout).digest
        for tokenizer, threshold, layout in [
            ("simple", 1, "vse"),
            ("simple", 1, "vsepp"),
            ("simple", 2, "vse"),
        ]
    ]
    assert len(set(built)) == 3


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    vocabulary = Vocabulary.build(CAPTIONS, "simple", 1, "vsepp")
    (tmp_path / "vocab.json").write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UserError, match="vocab.json: .*No space left"):
        vocabulary.save(tmp_path / "vocab.json")
    assert (tmp_path / "vocab.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["vocab.json"]


def original_json(*words):
    return json.dumps(
        {"word2idx": {word: index for index, word in enumerate(words)}, "idx2word": {}, "idx": 0}
    )


def test_a_vocabulary_of_the_originals_is_read(tmp_path):
    (tmp_path / "f8k.json").write_text(original_json("<pad>", "<start>", "<end>", "<unk>", "dog"))
    vocabulary = Vocabulary.load(tmp_path / "f8k.json")
    assert (vocabulary.tokenizer, vocabulary.layout, len(vocabulary)) == ("nltk", "vsepp", 5)
    assert vocabulary.encode("a dog") == [1, 3, 4, 2]


BROKEN = {
    "not JSON": ("dog\n", "not a vocabulary in JSON"),
    "another file": ('{"images": []}', "expected tokenizer, layout"),
    "a list": ("[1, 2]", "expected tokenizer, layout"),
    "ids with a gap": (
        '{"word2idx": {"<pad>": 0, "<unk>": 1, "dog": 5}}',
        "no word has the id 2, and 'dog' has 5",
    ),
    "two words of one id": (
        '{"word2idx": {"<pad>": 0, "<unk>": 1, "dog": 2, "cat": 2}}',
        "'dog' and 'cat' have the id 2",
    ),
    "an id in quotes": ('{"word2idx": {"<pad>": 0, "<unk>": "1"}}', "the id of '<unk>' is \"1\""),
    "an id below 0": ('{"word2idx": {"<pad>": 0, "<unk>": 1, "dog": -1}}', "the id of 'dog' is -1"),
    "a pickle of Python 2": (pickle.dumps({"word2idx": {"dog": 0}}, 0).decode(), "a pickle, expected JSON"),
    "no words": (original_json("<pad>", "<start>", "<end>", "<unk>"), "a vocabulary without words"),
    "no unknown": (original_json("<pad>", "dog"), "without <unk>"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_vocabulary_file_is_refused_by_name(tmp_path, fault):
    content, expected = BROKEN[fault]
    (tmp_path / "v.json").write_text(content)
    with pytest.raises(UserError, match=f"v.json: .*{expected}"):
        Vocabulary.load(tmp_path / "v.json")


def test_a_mark_of_the_byte_order_is_no_letter(tmp_path):
    content = original_json("<pad>", "<start>", "<end>", "<unk>", "dog")
    (tmp_path / "v.json").write_text(content, encoding="utf-8-sig")
    assert Vocabulary.load(tmp_path / "v.json").encode("dog") == [1, 4, 2]


def test_a_missing_vocabulary_file_is_refused_by_name(tmp_path):
    (tmp_path / "folder").mkdir()
    for name in ("v.json", "folder"):
        with pytest.raises(UserError, match=f"{name}: no such vocabulary"):
            Vocabulary.load(tmp_path / name)
