"""Readers of what this toolkit and its neighbours write: indexes, bundles, results, scores, queries."""

import gzip
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np

from datasets.captions.relevance_files import read_relevance
from datasets.preparation.columns import Columns
from datasets.preparation.problems import Problems
from datasets.preparation.tables import read_table
from engine.certificates.comparison import compare, entries_of, read_result
from engine.certificates.sides import Side
from engine.certificates.stored import RANKS_FILE, write_ranks
from engine.conversion.recognise import open_source as open_checkpoint
from engine.conversion.reference import read_reference
from engine.conversion.vocabularies import words_of
from engine.evaluation.scores.shards import IDENTITY, ScoreShards
from engine.protocols.coco import CocoNames
from engine.protocols.pmrp import read_codes
from engine.protocols.scored import read_scores
from engine.ranking.counter import TiedRanks
from serving.bundle.bundle import Bundle
from serving.bundle.graph import Graph
from serving.index.build import Options, finish, publish
from serving.index.card import Card
from serving.index.engines.kinds import FILES
from serving.index.index import Index
from serving.index.items import Items
from serving.index.sources import read_sentences
from serving.index.vectors import VectorFile
from tests.bundle_files import FEATURES, write_bundle
from tests.fuzz.readers import CAPTIONS, NAMES, ORIGINAL, SPLIT, Reader, as_json, as_text
from tests.vector_makers import items_named, unit_vectors

COUNT, IMAGES = 40, 6


def _index(engine: str) -> Reader:
    def write(folder: Path) -> None:
        vectors, draft = unit_vectors(COUNT), folder / "building"
        draft.mkdir()
        VectorFile(draft, vectors.shape[1]).write(0, vectors)
        items = Items(draft, create=True)
        items.insert(items_named(COUNT))
        items.close()
        card = Card("", "pictures", COUNT, vectors.shape[1], "cosine", "a" * 64)
        publish(folder, draft, finish(draft, card, Options(engine), None))

    def read(folder: Path) -> None:
        with Index(folder) as index:
            index.verify()
            index.search(unit_vectors(2), 3, "number >= 5")
            index.search(unit_vectors(2), 3)
            list(index.items())

    data = ("card.json", "0001/items.sqlite", "0001/vectors.f32", "0001/checks.u32")
    return Reader(write, read, (*data, *([f"0001/{FILES[engine]}"] if engine in FILES else [])))


def _read_bundle(folder: Path) -> None:
    bundle = Bundle.open(folder / "b")
    bundle.encode_texts(["a red dog"])
    bundle.encode_features(np.zeros((1, FEATURES), np.float32) + 1)


def _read_graph(folder: Path) -> None:
    tokens = np.ones((1, 3), np.int64)
    Graph(folder / "b" / "text.onnx")(token_ids=tokens, text_len=np.array([3]))


def _result(folder: Path) -> None:
    sides = {}
    for prefix, owner in (("i2t_", np.arange(IMAGES)), ("t2i_", np.repeat(np.arange(IMAGES), 2))):
        ranks, size = owner % 4, len(owner)
        tied = TiedRanks(ranks, ranks + 1)
        sides[prefix] = Side.of(tied, owner, np.zeros(size, int), np.ones(size, int), np.full(size, IMAGES))
    config = {"MODEL": {"NAME": "vsepp"}, "MISC": {"SEED": 1}, "OUTPUT": {"SAVE_NAME": "a_seed1"}}
    protocol = {"split": "test", "images": IMAGES, "folds": 1, "tie_rule": "against"}
    metrics = {f"{side}_{name}": 50.0 for side in ("i2t", "t2i") for name in ("r1", "r5", "r10")}
    content = {"metrics": {**metrics, "rsum": 300.0}, "protocol": protocol, "config": config}
    for name in ("one", "other"):
        (folder / name).mkdir()
        as_json("result.json", content)(folder / name)
        write_ranks(folder / name / RANKS_FILE, sides, "against", {"images": NAMES})


def _compare(folder: Path) -> None:
    entries = entries_of([read_result(folder / "one"), read_result(folder / "other")])
    compare(entries, resamples=20)


def _scores(save: Callable, **arrays: np.ndarray) -> Callable[[Path], object]:
    names = [f"COCO_val2014_{number:012}.jpg" for number in range(4)]
    names = {"image_ids": names, "caption_image_ids": np.repeat(names, 2)}
    return lambda folder: save(folder / "s.npz", **names, **arrays)


def _coco(folder: Path) -> None:
    _scores(np.savez, scores=np.eye(4, 8))(folder)
    np.save(folder / "coco_test_ids.npy", np.arange(8))
    owner = {str(caption): [caption // 2] for caption in range(8)}
    captions = {str(image): [2 * image, 2 * image + 1] for image in range(4)}
    as_json("original_caption_to_image.json", owner)(folder)
    as_json("eccv_caption_to_image.json", owner)(folder)
    as_json("eccv_image_to_caption.json", captions)(folder)
    pairs = "".join(
        f"COCO_val2014_{n:012}.jpg,COCO_val2014_{(n + 1) % 4:012}.jpg,{n + 1}.5\n" for n in range(4)
    )
    text = "image1,image2,agg_score\n" + pairs
    (folder / "sis_test.csv").write_text(text)
    (folder / "sts_test.csv.gz").write_bytes(
        gzip.compress(b"caption1,caption2,agg_score\ncoco:1,coco:2,3.5\n", mtime=0)
    )


def _read_coco(folder: Path) -> None:
    names = CocoNames(read_scores(folder / "s.npz"), folder)
    names.positives("eccv")
    names.rated("sis", 3.0)
    names.rated("sts", 3.0)


INSTANCES = {"annotations": [{"image_id": row % 4, "category_id": row} for row in range(6)]}


def _read_codes(folder: Path) -> None:
    read_codes(folder / "o.json", read_scores(folder / "s.npz"))


def _shards(folder: Path) -> None:
    shards = ScoreShards(folder / "scores", dict.fromkeys(IDENTITY, "x"), 2)
    for block in range(2):
        shards.write(block, np.arange(5, dtype=np.float32))


def _read_shards(folder: Path) -> None:
    shards = ScoreShards(folder / "scores", dict.fromkeys(IDENTITY, "x"), 2)
    for block in range(2):
        shards.read(block)


def _table(name: str, text: str) -> Reader:
    return Reader(
        as_text(name, text), lambda folder: read_table(folder / name, Columns(), Problems()), (name,)
    )


def _pickled(content: object, protocol: int) -> Callable[[Path], object]:
    return lambda folder: (folder / "v.pkl").write_bytes(pickle.dumps(content, protocol))


def _read_words(folder: Path) -> None:
    path = folder / "v.pkl"
    words_of(open_checkpoint(path), path)


PAIRS = list(zip(NAMES, CAPTIONS, strict=True))
RECORDS = "".join(
    json.dumps({"image": name, "caption": text}, ensure_ascii=False) + "\n" for name, text in PAIRS
)
ITEMS = "".join(
    json.dumps({"id": name, "caption": text, "metadata": {"year": 2010}}, ensure_ascii=False) + "\n"
    for name, text in PAIRS
)
TEXTS = "".join(f"{name}#0\t{text}\n" for name, text in PAIRS)
RELEVANT = {name: [str(row), (row + 1) % 4] for row, name in enumerate(NAMES)}
GRADES = "image,caption,grade\n" + "".join(f"{name},{row},{row + 1}\n" for row, name in enumerate(NAMES))

WRITTEN = {
    **{f"index, {engine}": _index(engine) for engine in ("scan", *FILES)},
    "bundle": Reader(
        lambda folder: write_bundle(folder / "b"),
        _read_bundle,
        ("b/model.json", "b/vocabulary.json", "b/text.onnx", "b/image.onnx"),
    ),
    "graph of a bundle": Reader(lambda folder: write_bundle(folder / "b"), _read_graph, ("b/text.onnx",)),
    "result and ranks": Reader(_result, _compare, ("one/result.json", f"one/{RANKS_FILE}")),
    "scores": Reader(
        _scores(np.savez, scores=np.eye(4, 8, dtype=np.float32)),
        lambda folder: read_scores(folder / "s.npz"),
        ("s.npz",),
    ),
    "scores, embeddings": Reader(
        _scores(np.savez_compressed, image=unit_vectors(4), text=unit_vectors(8), caption_ids=np.arange(8)),
        lambda folder: read_scores(folder / "s.npz"),
        ("s.npz",),
    ),
    "scores, lists": Reader(
        _scores(np.savez, i2t=np.tile(np.arange(8), (4, 1)), t2i=np.tile(np.arange(4), (8, 1))),
        lambda folder: read_scores(folder / "s.npz"),
        ("s.npz",),
    ),
    "names of COCO": Reader(
        _coco,
        _read_coco,
        (
            "coco_test_ids.npy",
            "original_caption_to_image.json",
            "eccv_image_to_caption.json",
            "sis_test.csv",
            "sts_test.csv.gz",
        ),
    ),
    "objects of COCO": Reader(
        lambda folder: (_scores(np.savez, scores=np.eye(4, 8))(folder), as_json("o.json", INSTANCES)(folder)),
        _read_codes,
        ("o.json",),
    ),
    "reference of a conversion": Reader(
        lambda folder: np.savez_compressed(folder / "r.npz", images=np.zeros((2, 3)), lengths=np.arange(2)),
        lambda folder: read_reference(folder / "r.npz"),
        ("r.npz",),
    ),
    "scores of blocks": Reader(_shards, _read_shards, ("scores/block_0000000.safetensors",)),
    "right pairs, JSON": Reader(
        as_json("r.json", RELEVANT), lambda folder: read_relevance(folder / "r.json", SPLIT), ("r.json",)
    ),
    "right pairs, CSV": Reader(
        as_text("r.csv", GRADES), lambda folder: read_relevance(folder / "r.csv", SPLIT, 2.0), ("r.csv",)
    ),
    "captions of a gallery": Reader(
        as_text("g.txt", TEXTS), lambda folder: read_sentences(folder / "g.txt"), ("g.txt",)
    ),
    "captions of a gallery, CSV": Reader(
        as_text("g.csv", "image,caption\n" + "".join(f'{name},"{text}"\n' for name, text in PAIRS)),
        lambda folder: read_sentences(folder / "g.csv"),
        ("g.csv",),
    ),
    "captions of a gallery, lines of JSON": Reader(
        as_text("g.json", RECORDS), lambda folder: read_sentences(folder / "g.json"), ("g.json",)
    ),
    "items of a gallery": Reader(
        as_text("g.jsonl", ITEMS), lambda folder: read_sentences(folder / "g.jsonl"), ("g.jsonl",)
    ),
    "table, CSV": _table("t.csv", "image,caption\n" + "".join(f'{name},"{text}"\n' for name, text in PAIRS)),
    "table, JSON lines": _table("t.jsonl", RECORDS),
    "table, tokens of Flickr": _table("t.token", TEXTS),
    "table, JSON": _table("t.json", json.dumps({name: [text] for name, text in PAIRS})),
    "vocabulary, pickled": Reader(_pickled(ORIGINAL, 2), _read_words, ("v.pkl",)),
    "vocabulary, old pickle": Reader(_pickled(ORIGINAL, 0), _read_words, ("v.pkl",)),
}
