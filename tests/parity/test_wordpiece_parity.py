"""Word pieces are those of BERT's published algorithm, on captions of three data sets."""

import gzip
import json
from pathlib import Path

import pytest

from benchmarks._plain_wordpiece import PlainWordPiece
from datasets.words.wordpiece import WordPiece


def read_lines(path: Path) -> list[str]:
    return gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")


def flickr8k(folder: Path) -> list[str]:
    lines = read_lines(folder / "Flickr8k.token.txt.gz")
    return [line.partition("\t")[2] for line in lines if line]


def flickr30k(folder: Path) -> list[str]:
    paths = sorted(folder.glob("flickr30k_*.en.gz"))
    return [line for path in paths for line in read_lines(path)]


def coco(folder: Path) -> list[str]:
    content = json.loads("\n".join(read_lines(folder / "coco_captions_val2017.json.gz")))
    return [annotation["caption"] for annotation in content["annotations"]]


@pytest.mark.parametrize(
    ("read", "expected", "step"), [(flickr8k, 40460, 40), (flickr30k, 155070, 150), (coco, 25014, 25)]
)
def test_every_so_many_captions(shared, read, expected, step):
    captions = read(shared / "data/text")
    assert len([caption for caption in captions if caption]) == expected
    path = shared / "data/vocab/bert-base-uncased-vocab.txt"
    plain, sample = PlainWordPiece(path), captions[::step]
    encoded = WordPiece.load(path).encode_all(sample)
    for row, caption in enumerate(sample):
        assert encoded[row].tolist() == plain.encode(caption), caption
