"""Vocabularies of the originals are read from any pickle of theirs, without running it."""

import json
import pickle
import sys
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest

from config.errors import UserError
from datasets.words.vocabulary import Vocabulary
from engine.conversion.vocabularies import (
    convert_vocabulary,
    dictionary_of,
    read_content,
    vocabulary_of,
    words_of,
)

IDS = {"<pad>": 0, "<start>": 1, "<end>": 2, "<unk>": 3, "dog": 4, "caf\u00e9": 5}


def pickled(module: str, protocol: int) -> bytes:
    """Return a pickled object of a class `Vocabulary` in `module`, as the originals write theirs."""
    kind = type("Vocabulary", (), {"__module__": module})
    made = kind()
    made.word2idx, made.idx2word, made.idx = dict(IDS), {i: word for word, i in IDS.items()}, len(IDS)
    with mock.patch.dict(sys.modules, {module: SimpleNamespace(Vocabulary=kind)}):
        return pickle.dumps(made, protocol)


@pytest.mark.parametrize("module", ["vocab", "__main__", "build_vocab"])
@pytest.mark.parametrize("protocol", range(6))
def test_pickled_vocabularies_of_python_3(tmp_path, module, protocol):
    path = tmp_path / "v.pkl"
    path.write_bytes(pickled(module, protocol))
    found = vocabulary_of(words_of(read_content(path), path), path, 6)
    assert found.words == list(IDS) and (found.layout, found.tokenizer) == ("vsepp", "nltk")


# What Python 2 writes of an object with `word2idx`: of an old class, by copy_reg, and by its constructor.
PYTHON_2 = {
    "protocol 0, old class": (
        b"(ivocab\nVocabulary\np0\n(dp1\nS'word2idx'\np2\n(dp3\nS'<unk>'\np4\nI1\nsS'dog'\nI0\nssb."
    ),
    "protocol 0, new class": (
        b"ccopy_reg\n_reconstructor\np0\n(c__main__\nVocabulary\np1\nc__builtin__\nobject\np2\nNtp3\nRp4\n"
        b"(dp5\nS'word2idx'\np6\n(dp7\nV<unk>\np8\nI1\nsS'dog'\np9\nI0\nssb."
    ),
    "protocol 1": (
        b"ccopy_reg\n_reconstructor\nq\x00(cvocab\nVocabulary\nq\x01c__builtin__\nobject\nq\x02Ntq\x03Rq\x04}q\x05"
        b"U\x08word2idxq\x06}q\x07(U\x05<unk>q\x08K\x01U\x03dogq\tK\x00usb."
    ),
    "protocol 2": (
        b"\x80\x02cvocab\nVocabulary\nq\x00)\x81q\x01}q\x02U\x08word2idxq\x03}q\x04(U\x05<unk>q\x05K\x01"
        b"U\x03dogq\x06K\x00usb."
    ),
}


@pytest.mark.parametrize("kind", PYTHON_2)
def test_pickled_vocabularies_of_python_2(tmp_path, kind):
    (tmp_path / "v.pkl").write_bytes(PYTHON_2[kind])
    found = words_of(read_content(tmp_path / "v.pkl"), tmp_path / "v.pkl")
    assert found.ids == {"<unk>": 1, "dog": 0}


def test_bytes_that_are_no_text_stay_a_word(tmp_path):
    (tmp_path / "v.pkl").write_bytes(b"\x80\x02}(U\x03dogK\x00U\x04caf\xe9K\x01u.")
    assert words_of(read_content(tmp_path / "v.pkl"), tmp_path).ids == {"dog": 0, "caf\ufffd": 1}


@pytest.mark.parametrize("write", [lambda content: json.dumps(content).encode(), pickle.dumps])
@pytest.mark.parametrize("wrap", [lambda ids: ids, lambda ids: {"worddict": ids, "n_words": 9}, OrderedDict])
def test_dictionaries_of_kiros(tmp_path, write, wrap):
    path = tmp_path / "d.pkl"
    path.write_bytes(write(wrap({"the": 2, "a": 3, "dog": 4, "rare": 5})))
    words = words_of(read_content(path), path)
    assert dictionary_of(words, path).words == ["<end>", "<unk>", "the", "a", "dog", "rare"]
    fewer, more = dictionary_of(words, path, 5), dictionary_of(words, path, 8)
    assert fewer.words == ["<end>", "<unk>", "the", "a", "dog"]
    assert fewer.encode("the rare dog") == [2, 1, 4, 0]
    assert more.words[6:] == ["<free 6>", "<free 7>"] and len(more) == 8


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"dim_image": 48, "dim": 64, "dim_word": 32, "n_words": 40},
            r"the options of Kiros' VSE \(dim_image, dim, dim_word, n_words\), no vocabulary",
        ),
        ({"width": 48, "height": 64, "depth": 6}, "3 words with ids up to 64, such as width, height, depth"),
    ],
)
def test_options_and_other_numbers_are_no_dictionary(tmp_path, content, message):
    path, output = tmp_path / "p.pkl", tmp_path / "vocabulary.json"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=message) as raised:
        convert_vocabulary(path, read_content(path), output)
    assert "\n" not in str(raised.value) and not output.exists()


def test_words_that_python_3_damaged_are_counted(tmp_path):
    words = ["<pad>", "<start>", "<end>", "<unk>", "b'a", 'b"the', "caf\\xc3\\xa9", "dog", "b", "tab"]
    (tmp_path / "v.json").write_text(json.dumps({"word2idx": {word: i for i, word in enumerate(words)}}))
    (note,) = words_of(read_content(tmp_path / "v.json"), Path("v.json")).notes
    assert note.startswith("v.json: 3 of 10 words (30.0%) are damaged, such as b'a, b\"the, caf\\xc3\\xa9: ")


REFUSED = {
    "not a vocabulary: expected word2idx, worddict": [1, 2],
    "expected words with ids, got 'dog' with 'four'": {"word2idx": {"dog": "four"}},
    "expected words with ids, got 'dog' with 'True'": {"word2idx": {"dog": True}},
    "'dog' and 'cat' have the same id, 4": {"word2idx": {"dog": 4, "cat": 4}},
    "no word has id 1, but one has 7": {"word2idx": {"<unk>": 0, "dog": 7}},
    "no <unk> among its words": {"word2idx": {"<pad>": 0, "dog": 1}},
    "its words are no dict": {"word2idx": ["dog"]},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_no_vocabulary_is_one_line(tmp_path, message):
    path = tmp_path / "v.json"
    path.write_text(json.dumps(REFUSED[message]))
    with pytest.raises(UserError) as raised:
        vocabulary_of(words_of(read_content(path), path), path)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_genuine_vocabularies(shared, tmp_path):
    folder = shared / "fixtures" / "text"
    expected = json.loads((folder / "text.json").read_text())
    for name in ("f30k_precomp_vocab.pkl", "f30k_precomp_vocab.proto2.pkl"):
        path = folder / name
        vocabulary = vocabulary_of(words_of(read_content(path), path), path)
        assert "<unk>" in vocabulary.words and expected
    for path in sorted((shared / "data" / "vocab").glob("*_vocab*.json")):
        line = convert_vocabulary(path, read_content(path), tmp_path / path.name)
        assert line.startswith(str(tmp_path / path.name)) or line.startswith("note: ")
        assert len(Vocabulary.load(tmp_path / path.name)) > 100


def test_a_pickle_in_place_of_json_says_how_to_convert_it(tmp_path):
    path = tmp_path / "vocab.pkl"
    path.write_bytes(pickle.dumps({"word2idx": IDS}))
    with pytest.raises(
        UserError, match=r"a pickle, .* python tools/convert_weights.py .*vocab.pkl .*vocab.json"
    ):
        Vocabulary.load(path)
    convert_vocabulary(path, read_content(path), tmp_path / "vocab.json")
    assert Vocabulary.load(tmp_path / "vocab.json").words == list(IDS)


def test_a_number_among_the_words_is_one_line(tmp_path):
    content = {"tokenizer": "simple", "layout": "vsepp", "threshold": 1, "words": ["<pad>", 3, "dog"]}
    (tmp_path / "v.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="v.json: word 1 is 3, expected a text: put it in quotes"):
        Vocabulary.load(tmp_path / "v.json")
