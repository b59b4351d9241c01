"""Readers of files from outside: small valid files, and what reads them (the toolkit's own: written.py)."""

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from config.files.networks import read_backbone, read_detector
from config.load import load_config
from datasets.captions.load import CaptionSplit, load_captions
from datasets.captions.swapped import load_swapped
from datasets.captions.tags import tags_of_classes, tags_of_predictions
from datasets.captions.vinvl import load_vinvl_captions, read_caption_index
from datasets.conversion.contents import read_contents
from datasets.features.formats import open_features
from datasets.features.npy import NpyFeatures
from datasets.features.store import FeatureStore
from datasets.features.tsv import TsvFeatures
from datasets.pictures.files import PictureFiles
from datasets.pictures.lists import read_captioned, read_label_list
from datasets.pictures.picture import Picture, UnreadableError
from datasets.words.vocabulary import Vocabulary
from datasets.words.wordpiece import WordPiece
from engine.extraction.onednn_backbone import OnednnNetwork
from engine.extraction.onnx_backbone import OnnxNetwork
from engine.inspection.cases import misses, open_result
from engine.inspection.judgements import (
    Judgement,
    doubted_pairs,
    extended,
    read_judgements,
    write_judgements,
)
from engine.inspection.recounted import recounted
from engine.runs.checkpoint import newest_whole, read_state
from engine.runs.run_folder import read_log
from engine.weights.bert_folder import read_bert_config
from engine.weights.stored import stored_tensors
from engine.weights.tensor_files import open_safetensors, read_safetensors, save_safetensors
from engine.weights.weight_files import open_weights
from models.kernels import onednn
from models.kernels.choice import BFLOAT16, FLOAT32, Choice, keep_choice, read_choice
from serving.search.embeddings import Embeddings, read_embeddings, write_embeddings
from tests.engine.inspection.evaluated import Split
from tests.onnx_networks import write_convolutions, write_means
from tests.picture_files import encoded, noisy, write_zip
from tests.region_files import make_regions, tsv_line, write_tsv

CAPTIONS = ["a dog runs", "a café", "two dogs, one cat", "一只黑狗"]
NAMES = ["1.jpg", "a b.png", "é.jpg", "dir/4.jpg"]


@dataclass(frozen=True)
class Reader:
    """A reader: `write` puts valid files into a folder, `read` reads them, and `files` are to be damaged."""

    write: Callable[[Path], object]
    read: Callable[[Path], object]
    files: tuple[str, ...]


def read_all(store: FeatureStore) -> None:
    """Read everything that a feature file holds."""
    rows = np.arange(len(store))
    store.gather(rows, pool=True)
    store.moments(pool=False)
    read_contents(store)
    for row in rows[:5].tolist():
        store[row]


def as_json(name: str, content: object) -> Callable[[Path], object]:
    """Return what writes content as JSON into a folder."""
    return lambda folder: (folder / name).write_text(
        json.dumps(content, ensure_ascii=False), encoding="utf-8"
    )


def as_text(name: str, text: str) -> Callable[[Path], object]:
    """Return what writes a text into a folder."""
    return lambda folder: (folder / name).write_text(text, encoding="utf-8")


def _npy(folder: Path) -> None:
    random = np.random.default_rng(0)
    np.save(folder / "x_ims.npy", random.random((4, 2, 3), np.float32))
    np.save(folder / "x_boxes.npy", random.random((4, 2, 4), np.float32))
    np.save(folder / "x_sizes.npy", np.full((4, 2), 100))
    lines = [
        json.dumps({"tags": ["dog", "cat"], "confidences": [0.5, 0.25]}),
        "dog cat",
        '{"tags": []}',
        "tree",
    ]
    (folder / "x_tags.txt").write_text("\n".join(lines) + "\n")
    (folder / "x_ids.txt").write_text("\n".join(NAMES) + "\n", encoding="utf-8")


def _tsv(kind: str) -> Callable[[Path], object]:
    return lambda folder: write_tsv(folder / "features.tsv", make_regions([3, 0, 2, 1]), kind)


def _gzip(folder: Path) -> None:
    images = make_regions([3, 1, 2])
    text = "".join(tsv_line(name, images[name], "bottom_up") for name in images)
    (folder / "f.tsv.gz").write_bytes(gzip.compress(text.encode()))


def _hdf5(options: dict) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        images = make_regions([3, 0, 2, 1])
        codes = [0, 1, 0, 2, 1, 1]
        with h5py.File(folder / "f.h5", "w") as file:
            values = np.concatenate([each.features for each in images.values()])
            file.create_dataset("features", data=values, **options)
            file["offsets"] = np.cumsum([0, 3, 0, 2, 1])
            file["ids"] = list(images)
            file["boxes"] = np.concatenate([each.boxes for each in images.values()])
            file["image_sizes"] = np.full((4, 2), 100)
            file["tag_names"], file["tags"] = ["dog", "cat", "é"], np.array(codes)
            file["tag_offsets"], file["confidences"] = np.cumsum([0, 3, 0, 2, 1]), np.full(6, 0.5, np.float32)

    return write


def _hdf5_by_image(folder: Path) -> None:
    with h5py.File(folder / "f.h5", "w") as file:
        for name, each in make_regions([3, 0, 2]).items():
            file[f"{name}_features"], file[f"{name}_boxes"] = each.features, each.boxes


class Named(FeatureStore):
    """Features that exist in name alone, to which captions are tied."""

    path = Path("features.h5")
    max_regions, dim, dtype = None, 3, np.dtype(np.float32)

    def __init__(self, names: list[str] | None, rows: int = 4) -> None:
        self.image_ids, self._rows = names, rows
        self.row_of = names and {name: row for row, name in enumerate(names)}

    def __len__(self) -> int:
        return self._rows

    def counts(self, rows: np.ndarray) -> np.ndarray:
        """Return 1 for each row."""
        return np.ones(len(rows), np.int64)

    def annotations(self, row: int) -> object:
        """Return nothing: no test asks."""

    def _read(self, rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        return np.zeros((len(rows), 3), np.float32)


SPLIT = CaptionSplit("test", NAMES, np.arange(4), CAPTIONS, np.arange(4))


def _captions(format: str, file: str, named: bool = True) -> Callable[[Path], object]:
    return lambda folder: load_captions(format, folder, "test", file, Named(NAMES if named else None))


def _karpathy(folder: Path) -> None:
    images = [
        {
            **{"filename": name, "cocoid": row + 10, "imgid": row, "split": "test"},
            "sentences": [{"raw": text, "tokens": text.split()}, {"tokens": ["two", "words"]}],
        }
        for row, (name, text) in enumerate(zip(NAMES, CAPTIONS, strict=True))
    ]
    as_json("c.json", {"images": images, "dataset": "x"})(folder)


def _coco(folder: Path) -> None:
    images = [{"id": row, "file_name": name} for row, name in enumerate(NAMES)]
    texts = [{"image_id": row, "id": row, "caption": text} for row, text in enumerate(CAPTIONS)]
    as_json("test.json", {"images": images, "annotations": texts})(folder)


def _csv(folder: Path) -> None:
    rows = "".join(f'{name},"{text}",test\n' for name, text in zip(NAMES, CAPTIONS, strict=True))
    (folder / "c.csv").write_text("image,caption,split\n" + rows, encoding="utf-8")


def _pictures(folder: Path) -> None:
    data = encoded(noisy(12, 10))
    for name in NAMES:
        (folder / "p" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "p" / name).write_bytes(data)


def _with_pictures(write: Callable[[Path], object]) -> Callable[[Path], object]:
    def both(folder: Path) -> None:
        _pictures(folder)
        write(folder)

    return both


def _picture(kind: str) -> Reader:
    def write(folder: Path) -> None:
        picture = noisy(24, 20)
        options = {"exif": _exif()} if kind in ("JPEG", "PNG", "WEBP") else {}
        picture.convert("P" if kind == "GIF" else "RGB").save(folder / "picture", kind, **options)

    return Reader(write, lambda folder: _view((folder / "picture").read_bytes()), ("picture",))


def _exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes()


def _view(data: bytes) -> None:
    try:
        picture = Picture(data)
        assert min(picture.size) > 0
        picture.decode(1.0)
    except UnreadableError as error:
        assert "\n" not in str(error) and len(str(error)) <= 300


def _zip(folder: Path) -> None:
    write_zip(folder / "p.zip", {name: encoded(noisy(12, 10)) for name in NAMES})


def _read_zip(folder: Path) -> None:
    files = PictureFiles(folder / "p.zip")
    for name in files.names:
        try:
            _view(files.read(name))
        except UnreadableError as error:
            assert "\n" not in str(error)


def _checkpoint(folder: Path) -> None:
    from engine.runs.checkpoint import save_checkpoint

    arrays = {"a": np.zeros((2, 3), np.float32)}
    state = {"model": "vsepp", "config": {}, "progress": {"step": 3}}
    save_checkpoint(
        folder / "last", arrays, arrays, state, Vocabulary.build(CAPTIONS, "simple", 1, "vsepp").to_text()
    )


def _read_checkpoint(folder: Path) -> None:
    read_state(folder / "last")
    newest_whole(folder / "last")


def _safetensors(folder: Path) -> None:
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.zeros((), np.int64),
        "c": np.zeros((0, 4)),
    }
    save_safetensors(folder / "m.safetensors", arrays, {"note": "é"})


def _torch(folder: Path) -> None:
    from engine.conversion.torch_writer import write_torch_file
    from engine.weights.stored import stored

    tensors = {
        "a.weight": stored(np.arange(6, dtype=np.float32).reshape(2, 3)),
        "b": stored(np.zeros(3, np.int64)),
    }
    write_torch_file(folder / "m.pth", {"model": tensors, "opt": {"dim": 3, "name": "é"}, "epoch": 3})


def _paddle(folder: Path) -> None:
    import pickle

    content = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "StructuredToParameterName@@": {"a": "linear_0"},
    }
    (folder / "m.pdparams").write_bytes(pickle.dumps(content, protocol=2))


def _read_weights(name: str) -> Callable[[Path], object]:
    return lambda folder: [tensor.read() for tensor in stored_tensors(open_weights(folder / name))]


def _read_safetensors(folder: Path) -> None:
    read_safetensors(folder / "m.safetensors")
    [tensor.read() for tensor in open_safetensors(folder / "m.safetensors").values()]


def _onnx(folder: Path) -> None:
    write_means(folder / "net.onnx")


def _read_convolutions(folder: Path) -> None:
    precision = BFLOAT16 if onednn.has_bfloat16() else FLOAT32
    network = OnednnNetwork(folder / "net.onnx", "image", "pool", 8, precision=precision)
    network(np.zeros((1, 3, 8, 8), np.float32))


def _read_onnx(folder: Path) -> None:
    network = OnnxNetwork(folder / "net.onnx", "image", "pool", 8)
    network(np.zeros((1, 3, 8, 8), np.float32))


PREDICTIONS = "".join(
    f"{name}\t"
    + json.dumps(
        {"image_w": 10, "image_h": 9, "objects": [{"class": "dog", "rect": [0, 1, 2, 3], "conf": 0.5}]}
    )
    + "\n"
    for name in NAMES
)
TASK = (
    "DATASET:\n  NAME: mine\nOPTIMIZATION:\n  LR: 1e-3\n  EPOCHS: 3\nINPUT:\n  VOCAB_SPLITS: [train, dev]\n"
)
BACKBONE = "MODEL: net.onnx\nKIND: onnx\nPOOLED: pool\nSIZE: 8\nMEAN: [1, 2, 3]\n"
DETECTOR = "MODEL: det.onnx\nINPUT: image\nOUTPUT: output\nSIZE: 32\nCLASSES: [dog, cat]\nSTRIDES: [8, 16]\n"
VOCABULARY = Vocabulary.build(CAPTIONS, "simple", 1, "vsepp").to_text()
ORIGINAL = {
    "word2idx": {"<pad>": 0, "<start>": 1, "<end>": 2, "<unk>": 3, "dog": 4},
    "idx2word": {},
    "idx": 5,
}
PIECES = WordPiece.build(CAPTIONS).to_text()
UNSPACED = [name for name in NAMES if " " not in name]
IN_SHOP = "3\nimage_name item_id evaluation_status\n" + "".join(f"{name} id_1 query\n" for name in UNSPACED)
LABELS = "label,path,split,is_query\n" + "".join(f'1,"{name}",validation,True\n' for name in NAMES)
SWAPPED = json.dumps({"image_id": "1", "kind": "sides", "caption": "a b", "swapped": "b a"}) + "\n"


def _embeddings(folder: Path) -> None:
    vectors = np.random.default_rng(0).random((4, 3), np.float32)
    write_embeddings(folder / "e.npz", Embeddings(vectors, NAMES, CAPTIONS, "0" * 64, "cosine"))


def _result(folder: Path) -> None:
    split = Split()
    split.write(folder / "a")
    pair = Judgement(split.image_ids[0], split.caption_ids[4], split.captions[4], True)
    write_judgements(folder / "judgements.json", [pair])


def _read_result(folder: Path) -> None:
    """Read a result with its lists, and do what pages and recounts do."""
    result = open_result(folder / "a")
    for direction in ("i2t", "t2i"):
        misses(result, direction, 3)
    doubted_pairs(result.lists)
    relevance = extended(result.lists, read_judgements(folder / "judgements.json", result.lists))
    recounted(result.stored.ranks, result.lists, relevance)


READERS = {
    "choice of a library": Reader(
        lambda folder: keep_choice(folder / "products.json", Choice("numpy", "numpy", "measured"), ["numpy"]),
        lambda folder: read_choice(folder / "products.json", ["numpy"]),
        ("products.json",),
    ),
    "npy": Reader(
        _npy,
        lambda folder: read_all(open_features(folder / "x_ims.npy")),
        ("x_ims.npy", "x_boxes.npy", "x_sizes.npy", "x_tags.txt", "x_ids.txt"),
    ),
    "npy of a split": Reader(
        _npy, lambda folder: read_all(NpyFeatures(folder / "x_ims.npy")), ("x_ims.npy",)
    ),
    "hdf5": Reader(_hdf5({}), lambda folder: read_all(open_features(folder / "f.h5")), ("f.h5",)),
    "hdf5 in chunks": Reader(
        _hdf5({"chunks": (2, 3), "compression": "gzip"}),
        lambda folder: read_all(open_features(folder / "f.h5")),
        ("f.h5",),
    ),
    "hdf5 by image": Reader(
        _hdf5_by_image, lambda folder: read_all(open_features(folder / "f.h5")), ("f.h5",)
    ),
    **{
        f"tsv of {kind}": Reader(
            _tsv(kind), lambda folder: read_all(open_features(folder / "features.tsv")), files
        )
        for kind, files in (
            ("vinvl", ("features.tsv", "predictions.tsv", "imageid2idx.json")),
            ("bottom_up", ("features.tsv",)),
            ("lxmert", ("features.tsv", "objects_vocab.txt")),
        )
    },
    "tsv, compressed": Reader(
        _gzip, lambda folder: read_all(TsvFeatures(folder / "f.tsv.gz")), ("f.tsv.gz",)
    ),
    "index of lines": Reader(
        lambda folder: TsvFeatures(_tsv("vinvl")(folder)),
        lambda folder: read_all(open_features(folder / "features.tsv")),
        ("features.lineidx",),
    ),
    "captions, precomp": Reader(
        lambda folder: (
            as_text("test_caps.txt", "\n".join(CAPTIONS))(folder),
            as_text("test_ids.txt", "\n".join(NAMES))(folder),
        ),
        _captions("precomp", ""),
        ("test_caps.txt", "test_ids.txt"),
    ),
    "captions, Karpathy": Reader(_karpathy, _captions("karpathy", "c.json"), ("c.json",)),
    "captions, csv": Reader(_csv, _captions("csv", "c.csv"), ("c.csv",)),
    "captions, records": Reader(
        as_json(
            "c.json",
            [{"image": n, "caption": c, "split": "test"} for n, c in zip(NAMES, CAPTIONS, strict=True)],
        ),
        _captions("json", "c.json"),
        ("c.json",),
    ),
    "captions, object": Reader(
        as_json("test.json", {n: [c] for n, c in zip(NAMES, CAPTIONS, strict=True)}),
        _captions("json", "{split}.json"),
        ("test.json",),
    ),
    "captions, COCO": Reader(_coco, _captions("json", "{split}.json", named=False), ("test.json",)),
    "captions, VinVL": Reader(
        lambda folder: (
            as_json("c.json", {n: [c] for n, c in zip(NAMES, CAPTIONS, strict=True)})(folder),
            as_text("k.tsv", "\n".join(NAMES))(folder),
        ),
        lambda folder: load_vinvl_captions(folder / "c.json", Named(NAMES), folder / "k.tsv"),
        ("c.json", "k.tsv"),
    ),
    "index of captions": Reader(
        as_json("i.json", {name: [[other, 0] for other in NAMES] for name in NAMES}),
        lambda folder: read_caption_index(folder / "i.json", SPLIT),
        ("i.json",),
    ),
    "swapped captions": Reader(
        as_text("test_swapped.jsonl", SWAPPED * 3), load_swapped, ("test_swapped.jsonl",)
    ),
    "pictures with captions": Reader(
        _with_pictures(_csv),
        lambda folder: read_captioned(PictureFiles(folder / "p"), folder / "c.csv"),
        ("c.csv",),
    ),
    "list of labels": Reader(
        _with_pictures(as_text("l.txt", "".join(f"{name} {row % 2}\n" for row, name in enumerate(NAMES)))),
        lambda folder: read_label_list(folder / "l.txt", PictureFiles(folder / "p")),
        ("l.txt",),
    ),
    "list of In-Shop": Reader(
        _with_pictures(as_text("l.txt", IN_SHOP)),
        lambda folder: read_label_list(folder / "l.txt", PictureFiles(folder / "p"), "query"),
        ("l.txt",),
    ),
    "list of labels, CSV": Reader(
        _with_pictures(as_text("l.csv", LABELS)),
        lambda folder: read_label_list(folder / "l.csv", PictureFiles(folder / "p"), "query"),
        ("l.csv",),
    ),
    "classes as tags": Reader(
        as_text("x_class.txt", "dog\ncat\ndog\na b\n"),
        lambda folder: list(tags_of_classes(folder / "x_class.txt", SPLIT)),
        ("x_class.txt",),
    ),
    "predictions": Reader(
        as_text("predictions.tsv", PREDICTIONS),
        lambda folder: list(tags_of_predictions(folder / "predictions.tsv", SPLIT)),
        ("predictions.tsv",),
    ),
    "vocabulary": Reader(
        as_text("v.json", VOCABULARY),
        lambda folder: Vocabulary.load(folder / "v.json").encode("a dog"),
        ("v.json",),
    ),
    "vocabulary of the originals": Reader(
        as_json("v.json", ORIGINAL),
        lambda folder: Vocabulary.load(folder / "v.json").encode("a dog"),
        ("v.json",),
    ),
    "word pieces": Reader(
        as_text("vocab.txt", PIECES),
        lambda folder: WordPiece.load(folder / "vocab.txt").encode("a dog 黑"),
        ("vocab.txt",),
    ),
    "task": Reader(as_text("t.yaml", TASK), lambda folder: load_config(folder / "t.yaml"), ("t.yaml",)),
    "backbone": Reader(
        as_text("b.yaml", BACKBONE), lambda folder: read_backbone(folder / "b.yaml"), ("b.yaml",)
    ),
    "detector": Reader(
        as_text("d.yaml", DETECTOR), lambda folder: read_detector(folder / "d.yaml"), ("d.yaml",)
    ),
    "checkpoint": Reader(_checkpoint, _read_checkpoint, ("last/state.json", "last/model.safetensors")),
    "log of a run": Reader(
        as_text("log.jsonl", json.dumps({"event": "train", "step": 1}) * 3 + "\n"),
        lambda folder: read_log(folder / "log.jsonl"),
        ("log.jsonl",),
    ),
    "result": Reader(
        _result, _read_result, ("a/result.json", "a/ranks.npz", "a/lists.npz", "judgements.json")
    ),
    "sizes of a BERT": Reader(
        as_json("config.json", {"hidden_size": 8}),
        lambda folder: read_bert_config(folder / "config.json"),
        ("config.json",),
    ),
    "embeddings": Reader(_embeddings, lambda folder: read_embeddings(folder / "e.npz"), ("e.npz",)),
    "safetensors": Reader(_safetensors, _read_safetensors, ("m.safetensors",)),
    "torch": Reader(_torch, _read_weights("m.pth"), ("m.pth",)),
    "Paddle": Reader(_paddle, _read_weights("m.pdparams"), ("m.pdparams",)),
    "network of convolutions": Reader(
        lambda folder: write_convolutions(folder / "net.onnx"), _read_convolutions, ("net.onnx",)
    ),
    "network": Reader(_onnx, _read_onnx, ("net.onnx",)),
    **{f"picture, {kind}": _picture(kind) for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")},
    "zip of pictures": Reader(_zip, _read_zip, ("p.zip",)),
}
