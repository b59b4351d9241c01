"""A file that is not what its name says is named for what it is, by every reader."""

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from config.errors import UserError
from config.files.kinds import mistaken_kind
from datasets.features.formats import open_features
from datasets.pictures.files import PictureFiles
from datasets.text_files import read_text
from datasets.words.vocabulary import Vocabulary
from datasets.words.wordpiece import WordPiece
from engine.conversion.vocabularies import read_content
from engine.weights.bert_folder import read_bert_config
from engine.weights.paddle_files import open_paddle_file
from engine.weights.tensor_files import read_safetensors
from engine.weights.torch_files import read_torch_file
from engine.weights.weight_files import open_weights

MISTAKES = {
    "a page of HTML": b"\n<!DOCTYPE html><html><body>404</body></html>",
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
}
BINARY = {
    "an empty file": b"",
    "zeros alone": bytes(4096),
    "a file packed by gzip": b"\x1f\x8b\x08\x00rest",
    "a zip that is cut short": b"PK\x03\x04\x14\x00\x00\x00",
    "an archive of tar": bytes(257).replace(b"\0", b"a", 9) + b"ustar\x0000" + bytes(300),
}
READERS = {
    "w.pth": read_torch_file,
    "w.bin": open_weights,
    "w.pdparams": open_paddle_file,
    "paddle_model.bin": open_weights,
    "w.safetensors": read_safetensors,
    "vocab.pkl": read_content,
    "words.json": read_content,
    "vocab.json": Vocabulary.load,
    "vocab.txt": WordPiece.load,
    "caps.txt": read_text,
    "config.json": read_bert_config,
    "f.npy": open_features,
    "f.h5": open_features,
    "f.tsv": open_features,
    "pictures.zip": PictureFiles,
}


@pytest.mark.parametrize("kind", MISTAKES)
@pytest.mark.parametrize("name", READERS)
def test_every_reader_names_a_failed_download(tmp_path, name, kind):
    path = tmp_path / name
    path.write_bytes(MISTAKES[kind])
    with pytest.raises(UserError) as raised:
        READERS[name](path)
    message = str(raised.value)
    assert str(path) in message and kind in message and "\n" not in message and len(message) < 300
    assert "download it again" in message


@pytest.mark.parametrize("kind", BINARY)
@pytest.mark.parametrize("name", ["w.pth", "w.pdparams", "w.safetensors", "f.npy", "f.h5"])
def test_what_else_weights_may_be(tmp_path, name, kind):
    path = tmp_path / name
    path.write_bytes(BINARY[kind])
    with pytest.raises(UserError, match=kind):
        READERS[name](path)


def test_text_that_is_packed_or_pickled_is_named(tmp_path):
    for content, kind in (
        (b"\x1f\x8b\x08\x00\xff", "packed by gzip"),
        (b"\x80\x02}q\x00.", "a pickle, expected"),
    ):
        (tmp_path / "vocab.txt").write_bytes(content)
        for read in (read_text, WordPiece.load):
            with pytest.raises(UserError, match=kind):
                read(tmp_path / "vocab.txt")


def test_a_zip_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        for number in range(5):
            archive.writestr(f"photos/{number}.jpg", b"")
    with pytest.raises(
        UserError, match=r"a zip of something else \(0.jpg, 1.jpg, 2.jpg and 2 more\): unpack"
    ):
        read_torch_file(tmp_path / "w.pth")


def test_what_is_right_is_no_mistake(tmp_path: Path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    (tmp_path / "a.txt").write_text("a dog\n")
    assert mistaken_kind(tmp_path / "a.npy") == mistaken_kind(tmp_path / "a.txt") == ""
    assert mistaken_kind(tmp_path / "none") == ""


def test_names_in_a_zip_are_cut_to_a_short_line(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        for name in ("n" * 400, "two\nlines", "c", "d"):
            archive.writestr(name, "")
    kind = mistaken_kind(tmp_path / "w.pth")
    assert kind.startswith("a zip of something else (nnn") and "two lines" in kind and "1 more" in kind
    assert "\n" not in kind and len(kind) < 200


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    "content", [{"a": 1}, ["a dog"], OrderedDict(a=1)], ids=lambda each: type(each).__name__
)
def test_a_pickle_is_no_text(tmp_path, protocol, content):
    (tmp_path / "c.json").write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(UserError, match="a pickle, expected text"):
        read_text(tmp_path / "c.json")


@pytest.mark.parametrize(
    "text", ["(dp is no word.", "(dp is no word.\nnor more", "(a dog) runs.", "ccollections", "a dog."]
)
def test_a_text_is_no_pickle(tmp_path, text):
    (tmp_path / "c.txt").write_text(text)
    assert read_text(tmp_path / "c.txt") == text
