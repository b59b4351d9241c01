"""A bundle encodes as its model does, and says in one line what is wrong with it or with what it is given."""

import json
import shutil

import numpy as np
import onnx
import paddle
import pytest
from PIL import Image

from config.errors import UserError
from config.files.bundles import write_description
from datasets.pairs import Pairs
from datasets.pictures.files import NamedPictures
from datasets.words.vocabulary import Vocabulary
from datasets.words.wordpiece import WordPiece
from engine.export.graphs.cnn import embed_pictures
from engine.export.graphs.dual import encode_features, encode_regions, encode_text
from engine.export.graphs.onnx_graph import OnnxGraph
from engine.export.graphs.pair import score_pairs
from engine.extraction.recorded import extract_as_recorded
from models.bert import BertShape
from models.cnn import Cnn, ImageEmbedder
from models.encoders import GRUTextEncoder, ImageEncoder
from models.oscar import Oscar
from models.vsrn import RegionEncoder
from serving.bundle.bundle import Bundle
from tests.bundle_files import write_bundle
from tests.picture_files import encoded, noisy

WIDTH, DIM = 6, 8
WORDS = Vocabulary.build(["a red dog", "the blue cat"], "simple", 1, "vsepp")
PIECES = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "dog", "cat"])
TEXT = {"tokenizer": "simple", "lower": True, "file": "vocab.json", "longest": 6}
PIXELS = {"reads": "pixels", "resize": 36, "crop": 32, "mean": [120.0] * 3, "scale": [0.02] * 3, "bgr": False}


def write(folder, kind, graphs, image, text=None, words=None):
    """Write a bundle of untrained encoders."""
    folder.mkdir()
    if words is not None:
        words.save(folder / words.file_name)
    for name, model in graphs.items():
        onnx.save(model, folder / f"{name}.onnx")
    content = {
        "family": {"dual": "vsepp", "cross": "oscar", "image": "cnn"}[kind],
        "kind": kind,
        "precision": "float32",
        "runtime": "onnx",
        "embedding": None if kind == "cross" else {"width": DIM, "measure": "cosine", "abs": False},
        "text": text,
        "image": image,
        "graphs": {name: {"file": f"{name}.onnx"} for name in graphs},
    }
    write_description(folder, content)
    return folder


def dual(folder, image_encoder, write_image, reads):
    paddle.seed(0)
    graphs = {}
    for name, encoder, writer in (
        ("image", image_encoder, write_image),
        ("text", GRUTextEncoder(len(WORDS), 5, DIM), encode_text),
    ):
        encoder.eval()
        graph = OnnxGraph()
        graphs[name] = graph.model(writer(graph, encoder), "embedding", ["batch", DIM])
    return write(folder, "dual", graphs, {"reads": reads, "width": WIDTH}, TEXT, WORDS)


@pytest.fixture
def vectors(tmp_path):
    return dual(tmp_path / "vectors", ImageEncoder(WIDTH, DIM), encode_features, "features")


@pytest.fixture
def regions(tmp_path):
    return dual(tmp_path / "regions", RegionEncoder(WIDTH, DIM, num_blocks=1), encode_regions, "regions")


@pytest.fixture
def pictures(tmp_path):
    model, graph = ImageEmbedder(Cnn("resnet18"), DIM), OnnxGraph()
    model.eval()
    graphs = {"image": graph.model(embed_pictures(graph, model, 32), "embedding", ["batch", DIM])}
    return write(tmp_path / "pictures", "image", graphs, PIXELS)


@pytest.fixture
def pairs(tmp_path):
    model, graph = Oscar(BertShape(len(PIECES), 12, 2, 2, 24, 20, region_dim=WIDTH)), OnnxGraph()
    model.eval()
    graphs = {"pairs": graph.model(score_pairs(graph, model, WIDTH), "score", ["batch"])}
    image = {"reads": "regions", "width": WIDTH, "most": 4, "tags": True}
    text = {"tokenizer": "wordpiece", "lower": True, "file": "vocab.txt", "longest": 12}
    return write(tmp_path / "pairs", "cross", graphs, image, text, PIECES)


def test_texts_are_encoded_alike_alone_together_and_repeated(vectors):
    bundle = Bundle.open(vectors)
    texts = ["a red dog", "the blue cat that is not known", "", "a red dog", "cat"] * 60
    found = bundle.encode_texts(texts)
    assert found.shape == (300, DIM) and found.dtype == np.float32
    assert (found[0] == found[3]).all()
    for place in range(5):
        np.testing.assert_allclose(found[place], bundle.encode_texts([texts[place]])[0], atol=1e-6)
    assert bundle.encode_texts([]).shape == (0, DIM)


def test_a_long_text_is_cut_as_in_training_and_keeps_its_end(vectors):
    bundle = Bundle.open(vectors)
    long, cut = bundle.encode_texts(["a red dog a red dog a red dog", "a red dog a"])
    assert (long == cut).all(), "six tokens: the start, four words and the end"


def test_regions_are_averaged_for_a_model_of_vectors(vectors):
    bundle = Bundle.open(vectors)
    regions = np.random.default_rng(0).standard_normal((3, 4, WIDTH)).astype(np.float32)
    counts = np.array([4, 1, 2])
    means = np.stack([rows[:count].mean(axis=0) for rows, count in zip(regions, counts, strict=True)])
    regions[1, 1:] = np.nan  # padding may hold anything
    found = bundle.encode_features(regions, counts)
    np.testing.assert_allclose(found, bundle.encode_features(means), atol=1e-6)


def test_padding_of_regions_changes_nothing(regions):
    bundle = Bundle.open(regions)
    features = np.random.default_rng(0).standard_normal((3, 4, WIDTH)).astype(np.float64)
    found = bundle.encode_features(features, [4, 1, 2])
    for row, count in enumerate([4, 1, 2]):
        alone = bundle.encode_features(features[row : row + 1, :count])
        np.testing.assert_allclose(found[row], alone[0], atol=1e-6)
    np.testing.assert_allclose(found[1], bundle.encode_features(features[1:2, 0])[0], atol=1e-6)


def test_a_picture_is_the_same_from_a_file_and_from_pillow(pictures, tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(noisy(50, 40)))
    bundle = Bundle.open(pictures)
    found = bundle.encode_pictures([str(path), path, Image.open(path), noisy(50, 40)])
    assert found.shape == (4, DIM) and (found == found[0]).all()


def test_pairs_are_scored_one_by_one_or_as_they_are_listed(pairs):
    bundle = Bundle.open(pairs)
    random = np.random.default_rng(0)
    regions = random.standard_normal((2, 6, WIDTH)).astype(np.float32)  # of which the model reads four
    texts, tags = ["a red dog", "a cat", "a dog"], [["dog"], ["red cat", "dog"]]
    listed = Pairs(np.array([1, 0, 1]), np.array([2, 0, 0]))
    found = bundle.score_pairs(texts, regions, [6, 2], tags, listed)
    for place, (image, text) in enumerate(zip(listed.images, listed.captions, strict=True)):
        own = regions[image : image + 1, : [4, 2][image]]
        alone = bundle.score_pairs([texts[text]], own, None, [tags[image]])
        np.testing.assert_allclose(found[place], alone[0], atol=1e-6)
    assert (bundle.dimension, bundle.measure) == (0, "")


def test_the_identity_is_that_of_the_embeddings(vectors, regions, tmp_path):
    first, second = Bundle.open(vectors).identity, Bundle.open(regions).identity
    assert first != second and len(first) == 64
    copy = shutil.copytree(vectors, tmp_path / "copy")
    description = json.loads((copy / "model.json").read_text())
    write_description(copy, {**description, "proof": {"largest_difference": 0}, "versions": {}})
    assert Bundle.open(copy).identity == first
    write_description(copy, {**description, "text": {**description["text"], "longest": 5}})
    assert Bundle.open(copy).identity != first


def cut(folder):
    path = folder / "text.onnx"
    path.write_bytes(path.read_bytes()[:-10])


def flip(folder):
    path = folder / "vocab.json"
    path.write_text(path.read_text().replace("red", "rad"))


def edit(folder):
    path = folder / "model.json"
    path.write_text(path.read_text().replace('"cosine"', '"order"'))


def newer(folder):
    path = folder / "model.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (cut, "text.onnx is damaged: expected"),
        (flip, "vocab.json was changed"),
        (edit, "model.json is damaged"),
        (newer, "expected a bundle of format 1, got 2"),
        (lambda folder: (folder / "image.onnx").unlink(), "lacks image.onnx"),
        (lambda folder: (folder / "model.json").unlink(), "has no readable model.json"),
        (lambda folder: (folder / "model.json").write_text("{"), "not the description of a bundle"),
        (lambda folder: (folder / "model.json").write_text("[]"), "not the description of a bundle"),
        (lambda folder: shutil.rmtree(folder), "no such folder"),
    ],
)
def test_a_damaged_bundle_is_refused_in_one_line(vectors, damage, expected):
    damage(vectors)
    with pytest.raises(UserError) as refused:
        Bundle.open(vectors)
    assert expected in str(refused.value) and "\n" not in str(refused.value)


def test_what_a_model_does_not_read_is_refused_in_one_line(vectors, pictures, pairs, tmp_path):
    rows = np.zeros((2, WIDTH), np.float32)
    broken = np.where(np.arange(2)[:, None] == 1, np.nan, rows)
    (tmp_path / "text.png").write_text("no picture")
    attempts = [
        (lambda: Bundle.open(vectors).encode_pictures(["a.png"]), "extract_features"),
        (lambda: Bundle.open(vectors).encode_features(rows[:, :3]), r"\[images, 6\]"),
        (lambda: Bundle.open(vectors).encode_features(broken), "image 2 holds NaN"),
        (lambda: Bundle.open(vectors).encode_features(rows[:, None], [1, 2]), "counts: .* from 1 to 1"),
        (lambda: Bundle.open(vectors).score_pairs(["a"], rows), "without a scorer of pairs"),
        (lambda: Bundle.open(pictures).encode_texts(["a"]), "without an encoder of texts"),
        (lambda: Bundle.open(pictures).encode_features(rows), "without an encoder of features"),
        (lambda: Bundle.open(pictures).encode_pictures([tmp_path / "text.png"]), "text.png: unreadable"),
        (lambda: Bundle.open(pictures).encode_pictures([tmp_path / "none.png"]), "none.png: unreadable"),
        (lambda: Bundle.open(pairs).encode_texts(["a"]), "scores pairs"),
        (lambda: Bundle.open(pairs).score_pairs(["a", "a"], rows), "object tags"),
    ]
    for attempt, expected in attempts:
        with pytest.raises(UserError, match=expected) as refused:
            attempt()
        assert "\n" not in str(refused.value)


def test_a_strange_record_of_an_extraction_is_one_line(tmp_path):
    picture = tmp_path / "a.png"
    Image.new("RGB", (9, 9)).save(picture)
    with pytest.raises(UserError, match="extraction: expected an object or null"):
        Bundle.open(write_bundle(tmp_path / "list", extraction=["x"]))
    for number, record in enumerate(
        ({"backbone": 3}, {"backbone": {"path": 3}}, {"detector": {}, "options": 1})
    ):
        folder = write_bundle(tmp_path / str(number), extraction=record)
        with pytest.raises(UserError, match="without an encoder of pictures: it reads features of width 12"):
            Bundle.open(folder).encode_pictures([picture])
        with pytest.raises(UserError, match="record of the extraction is damaged or of another version"):
            extract_as_recorded(record, folder / "model.json", NamedPictures([picture]), True, 1)
