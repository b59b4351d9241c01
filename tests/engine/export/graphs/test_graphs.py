"""Each encoder's graph makes what the encoder makes, of ragged batches in mixed order."""

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.vision.models import VGG

from engine.export.graphs.cnn import Walk, embed_pictures, encode_pixels
from engine.export.graphs.dual import encode_features, encode_regions, encode_text
from engine.export.graphs.onnx_graph import OnnxGraph
from engine.export.graphs.pair import score_pairs
from models.bert import BertShape
from models.cnn import Cnn, CnnImageEncoder, ImageEmbedder
from models.encoders import FeatureNorm, GRUTextEncoder, ImageEncoder, LSTMTextEncoder, WindowTextEncoder
from models.oscar import ATTENTION_TYPES, Oscar
from models.vsrn import RegionEncoder
from tests.closeness import assert_close
from tests.engine.export.onnx_runs import run

VOCABULARY, WORD, DIM, FEATURES, LONGEST, MOST = 50, 12, 16, 20, 9, 6
LENGTHS = np.array([1, LONGEST, 4, 2, LONGEST, 1, 5])
COUNTS = np.array([1, MOST, 3, 2, MOST, 5, 1])
EMBEDDING, SCORE = ["batch", "dim"], ["batch"]


@pytest.fixture
def random() -> np.random.Generator:
    paddle.seed(0)
    return np.random.default_rng(0)


def arrays_of_text(random) -> dict[str, np.ndarray]:
    return {"token_ids": random.integers(VOCABULARY, size=(len(LENGTHS), LONGEST)), "text_len": LENGTHS}


def regions_of(random) -> dict[str, np.ndarray]:
    regions = random.standard_normal((len(COUNTS), MOST, FEATURES)).astype(np.float32)
    return {"regions": regions, "num_regions": COUNTS}


def feature_norm(random) -> FeatureNorm:
    return FeatureNorm(FEATURES, random.random(FEATURES), 0.5 + random.random(FEATURES))


def randomise_norms(model: nn.Layer, random) -> None:
    """Give batch norms statistics that are not those of a new layer."""
    for layer in model.sublayers():
        if isinstance(layer, nn.BatchNorm1D | nn.BatchNorm2D):
            dim = layer.weight.shape[0]
            layer.weight.set_value(random.uniform(0.5, 1, dim).astype(np.float32))
            layer.bias.set_value(random.normal(0, 0.1, dim).astype(np.float32))
            layer._mean.set_value(random.normal(0, 0.1, dim).astype(np.float32))
            layer._variance.set_value(random.uniform(0.5, 2, dim).astype(np.float32))


def tensors(arrays: dict[str, np.ndarray]) -> dict[str, paddle.Tensor]:
    return {name: paddle.to_tensor(array) for name, array in arrays.items()}


GRUS = [
    {"pooling": pooling, "bidirectional": both, "num_layers": layers}
    for pooling in ("last", "mean", "max")
    for both in (False, True)
    for layers in (1, 2)
]


@pytest.mark.parametrize("settings", [*GRUS, {"absolute": True}])
def test_a_gru_reads_each_caption_to_its_end_and_not_further(random, settings):
    encoder = GRUTextEncoder(VOCABULARY, WORD, DIM, **settings)
    encoder.eval()
    arrays = arrays_of_text(random)
    graph = OnnxGraph()
    found = run(graph.model(encode_text(graph, encoder), "embedding", EMBEDDING), arrays)
    with paddle.no_grad():
        expected = encoder(*tensors(arrays).values()).numpy()
    assert_close(found, expected, terms=2 * LONGEST * (WORD + DIM), scale=1)


@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
def test_an_lstm_reads_each_caption_to_its_end_and_not_further(random, pooling):
    encoder = LSTMTextEncoder(VOCABULARY, WORD, DIM, pooling=pooling)
    encoder.eval()
    arrays = arrays_of_text(random)
    graph = OnnxGraph()
    found = run(graph.model(encode_text(graph, encoder), "embedding", EMBEDDING), arrays)
    with paddle.no_grad():
        expected = encoder(*tensors(arrays).values()).numpy()
    assert_close(found, expected, terms=LONGEST * (WORD + DIM), scale=1)


def test_windows_of_words_reach_beyond_neither_end_of_a_caption(random):
    encoder = WindowTextEncoder(VOCABULARY, WORD, DIM, window=5)
    arrays = arrays_of_text(random)
    graph = OnnxGraph()
    found = run(graph.model(encode_text(graph, encoder), "embedding", EMBEDDING), arrays)
    with paddle.no_grad():
        expected = encoder(*tensors(arrays).values()).numpy()
    assert_close(found, expected, terms=5 * WORD + LONGEST + 2 * DIM, scale=1)


@pytest.mark.parametrize("absolute", [False, True])
def test_vectors_are_standardised_mapped_and_normalised(random, absolute):
    encoder = ImageEncoder(FEATURES, DIM, absolute=absolute, feature_norm=feature_norm(random))
    features = random.standard_normal((5, FEATURES)).astype(np.float32)
    graph = OnnxGraph()
    model = graph.model(encode_features(graph, encoder), "embedding", EMBEDDING)
    expected = encoder(paddle.to_tensor(features)).detach().numpy()
    assert_close(run(model, {"features": features}), expected, terms=FEATURES + DIM, scale=1)


@pytest.mark.parametrize("released", ["coco", "f30k", "with directions"])
def test_regions_are_reasoned_over_without_their_padding(random, released):
    encoder = RegionEncoder(
        FEATURES,
        DIM,
        num_blocks=2,
        norm_regions=released == "coco",
        batch_norm=released == "f30k",
        direction_dim=8 if released == "with directions" else 0,
        feature_norm=feature_norm(random),
    )
    randomise_norms(encoder, random)
    encoder.eval()
    arrays = regions_of(random)
    arrays["regions"][np.arange(MOST) >= COUNTS[:, None]] = np.nan  # padding may hold anything
    graph = OnnxGraph()
    found = run(graph.model(encode_regions(graph, encoder), "embedding", EMBEDDING), arrays)
    with paddle.no_grad():
        padded = tensors({**arrays, "regions": np.nan_to_num(arrays["regions"])})
        expected = encoder(*padded.values()).numpy()
    # Two blocks, in each of which regions are multiplied with each other and with two matrices, and the GRU;
    # or the directions, of four sums over all regions.
    terms = FEATURES + 2 * (4 * DIM + MOST) + 2 * MOST * DIM
    assert_close(found, expected, terms=terms + 8 * 4 * MOST * bool(encoder.directions), scale=4)


@pytest.mark.parametrize("attention", ATTENTION_TYPES)
@pytest.mark.parametrize(("classifier", "labels"), [("linear", 2), ("mlp", 1)])
def test_pairs_are_scored_under_every_attention(random, attention, classifier, labels):
    shape = BertShape(VOCABULARY, 24, 3, 4, 48, LONGEST, region_dim=FEATURES, initial_deviation=0.2)
    model = Oscar(shape, labels, classifier, attention=attention, feature_norm=feature_norm(random))
    model.eval()
    segments = (np.arange(LONGEST) >= np.minimum(3, LENGTHS)[:, None]).astype(np.int64)
    arrays = {**arrays_of_text(random), "segment_ids": segments, **regions_of(random)}
    graph = OnnxGraph()
    found = run(graph.model(score_pairs(graph, model, FEATURES), "score", SCORE), arrays)
    with paddle.no_grad():
        expected = model.score_pairs(tensors(arrays)).numpy()
    assert_close(found, expected, terms=3 * (24 * 4 + 48 + MOST + LONGEST), scale=8)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2", "efficientnet_lite0"])
def test_pictures_pass_through_the_network_with_its_norms_folded(random, name):
    crop = 64
    model = ImageEmbedder(Cnn(name), DIM)
    randomise_norms(model, random)
    model.eval()
    pixels = random.standard_normal((3, 3, crop, crop)).astype(np.float32)
    graph = OnnxGraph()
    found = run(graph.model(embed_pictures(graph, model, crop), "embedding", EMBEDDING), {"pixels": pixels})
    with paddle.no_grad():
        expected = model.encode_image({"pixels": paddle.to_tensor(pixels)}).numpy()
    assert_close(found, expected, terms=20_000, scale=1)


def test_a_vgg_averages_over_other_maps_than_its_own(random):
    network = VGG(nn.Sequential(nn.Conv2D(3, 4, 3, stride=8, padding=1)), num_classes=0)
    network.classifier = nn.Sequential(nn.Linear(4 * 7 * 7, 5), nn.ReLU())
    pixels = random.standard_normal((2, 3, 80, 80)).astype(
        np.float32
    )  # a map of 10 x 10, where VGG has 7 x 7
    graph = OnnxGraph()
    graph.input("pixels", "float32", ["batch", 3, 80, 80])
    found = run(graph.model(Walk(graph, 80).layer(network, "pixels"), "out", EMBEDDING), {"pixels": pixels})
    with paddle.no_grad():
        maps = network.avgpool(network.features(paddle.to_tensor(pixels)))
        expected = network.classifier(maps.flatten(1)).numpy()
    assert_close(found, expected, terms=27 + 4 + 4 * 49)


def test_pixels_become_normalised_features_then_an_embedding(random):
    encoder = CnnImageEncoder(Cnn("resnet18"), ImageEncoder(512, DIM))
    randomise_norms(encoder, random)
    encoder.eval()
    pixels = random.standard_normal((2, 3, 64, 64)).astype(np.float32)
    graph = OnnxGraph()
    found = run(graph.model(encode_pixels(graph, encoder, 64), "embedding", EMBEDDING), {"pixels": pixels})
    with paddle.no_grad():
        expected = encoder(paddle.to_tensor(pixels)).numpy()
    assert_close(found, expected, terms=20_000, scale=1)


def test_half_precision_stores_halves_and_computes_in_float32(random):
    encoder = GRUTextEncoder(VOCABULARY, WORD, DIM)
    encoder.eval()
    arrays, sizes, found = arrays_of_text(random), [], []
    for half in (False, True):
        graph = OnnxGraph(half)
        model = graph.model(encode_text(graph, encoder), "embedding", EMBEDDING)
        sizes.append(sum(len(weight.raw_data) for weight in model.graph.initializer))
        found.append(run(model, arrays))
    assert sizes[1] < 0.6 * sizes[0]
    difference = np.abs(found[0] - found[1]).max()
    assert 0 < difference < 1e-3  # float16 rounds by 5e-4 of a number
