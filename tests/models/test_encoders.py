"""Encoders: shapes, padding that changes nothing, initial weights, and the zero vector."""

import math

import numpy as np
import paddle
import pytest

from models.encoders import (
    FeatureNorm,
    GRUTextEncoder,
    ImageEncoder,
    LSTMTextEncoder,
    WindowTextEncoder,
    l2norm,
    max_of,
    mean_of,
)
from tests.closeness import assert_close

pytestmark = pytest.mark.usefixtures("way")

TEXT_ENCODERS = {
    "gru": lambda: GRUTextEncoder(vocab_size=20, word_dim=6, embed_dim=8),
    "two layers": lambda: GRUTextEncoder(vocab_size=20, word_dim=6, embed_dim=8, num_layers=2),
    "bidirectional": lambda: GRUTextEncoder(
        vocab_size=20, word_dim=6, embed_dim=8, num_layers=2, bidirectional=True
    ),
    "mean": lambda: GRUTextEncoder(vocab_size=20, word_dim=6, embed_dim=8, pooling="mean"),
    "max, bidirectional": lambda: GRUTextEncoder(
        vocab_size=20, word_dim=6, embed_dim=8, bidirectional=True, pooling="max"
    ),
    "windows": lambda: WindowTextEncoder(vocab_size=20, word_dim=6, embed_dim=8, window=5),
    "lstm": lambda: LSTMTextEncoder(vocab_size=20, word_dim=6, embed_dim=8),
}

# Two layers over six words: a step multiplies inputs of up to 8 and a state of 8 and passes through gates.
ROUNDINGS = 2 * 6 * (8 + 8 + 12) + 8 + 4


@pytest.fixture(params=sorted(TEXT_ENCODERS))
def text_encoder(request: pytest.FixtureRequest) -> paddle.nn.Layer:
    paddle.seed(0)
    return TEXT_ENCODERS[request.param]()


def test_ragged_batch_equals_captions_encoded_one_by_one(text_encoder: paddle.nn.Layer) -> None:
    captions = [[1, 5, 9, 2], [1, 2], [1, 7, 7, 3, 11, 2], [4]]
    lengths = [len(caption) for caption in captions]
    padded = np.zeros([4, 6], dtype="int64")
    for row, caption in enumerate(captions):
        padded[row, : len(caption)] = caption
    together = text_encoder(paddle.to_tensor(padded), paddle.to_tensor(lengths)).numpy()
    assert together.shape == (4, 8)
    for row, caption in enumerate(captions):
        alone = text_encoder(paddle.to_tensor([caption]), paddle.to_tensor([len(caption)])).numpy()
        assert_close(together[row], alone[0], ROUNDINGS)


def test_the_words_after_a_captions_end_do_not_matter(text_encoder: paddle.nn.Layer) -> None:
    length = paddle.to_tensor([2])
    one = text_encoder(paddle.to_tensor([[3, 4, 0, 0]]), length)
    other = text_encoder(paddle.to_tensor([[3, 4, 17, 9]]), length)
    np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_word_order_matters(text_encoder: paddle.nn.Layer) -> None:
    embeddings = text_encoder(paddle.to_tensor([[3, 4, 5], [5, 4, 3]]), paddle.to_tensor([3, 3])).numpy()
    assert np.abs(embeddings[0] - embeddings[1]).max() > 1e-3


def test_bidirectional_state_is_the_mean_of_both_directions() -> None:
    encoder = GRUTextEncoder(vocab_size=20, word_dim=6, embed_dim=8, bidirectional=True)
    tokens = paddle.to_tensor([[3, 4, 5, 6]])
    _, final = encoder.rnn(encoder.embed(tokens))  # [2,B,D]: the last state of each direction
    expected = l2norm(final.mean(axis=0)).numpy()
    assert_close(encoder(tokens, paddle.to_tensor([4])).numpy(), expected, ROUNDINGS)


def test_text_embeddings_have_unit_length(text_encoder: paddle.nn.Layer) -> None:
    embeddings = text_encoder(paddle.to_tensor([[1, 2], [3, 4]]), paddle.to_tensor([2, 1])).numpy()
    assert_close(np.linalg.norm(embeddings, axis=1), np.ones(2), 2 * (8 + 3))  # two norms of 8 numbers


def test_initial_weights_are_the_originals() -> None:
    paddle.seed(0)
    image = ImageEncoder(feature_dim=400, embed_dim=200)
    text = GRUTextEncoder(vocab_size=100, word_dim=30, embed_dim=256)
    bounds = [
        (image.fc.weight, math.sqrt(6 / 600)),
        (text.embed.weight, 0.1),
        (text.rnn.weight_ih_l0, 1 / math.sqrt(256)),
        (text.rnn.weight_hh_l0, 1 / math.sqrt(256)),
    ]
    for weight, bound in bounds:
        assert 0.98 * bound < float(weight.abs().max()) <= bound
        assert float(weight.abs().mean()) == pytest.approx(bound / 2, rel=0.03)  # uniform
    assert float(image.fc.bias.abs().max()) == 0.0


def test_padding_has_a_word_vector_like_any_word() -> None:
    encoder = GRUTextEncoder(vocab_size=10, word_dim=4, embed_dim=4)
    assert float(encoder.embed(paddle.to_tensor([0])).abs().max()) > 0


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("absolute", [True, False])
def test_image_encoder_is_a_linear_map_then_norm_then_abs(normalize: bool, absolute: bool) -> None:
    encoder = ImageEncoder(feature_dim=5, embed_dim=3, normalize=normalize, absolute=absolute)
    features = np.random.RandomState(0).randn(4, 5).astype("float32")
    expected = features @ encoder.fc.weight.numpy() + encoder.fc.bias.numpy()
    scale = np.abs(features) @ np.abs(encoder.fc.weight.numpy())
    if normalize:
        norm = np.linalg.norm(expected, axis=1, keepdims=True)
        scale = np.linalg.norm(scale, axis=1, keepdims=True) / norm
        expected /= norm
    if absolute:
        expected = np.abs(expected)
    assert_close(encoder(paddle.to_tensor(features)).numpy(), expected, 5 + 1 + 2 * 3 + 3, scale)


def test_l2norm_of_a_zero_vector_is_zero_and_its_gradient_finite() -> None:
    x = paddle.to_tensor([[0.0, 0.0], [3.0, 4.0]], stop_gradient=False)
    y = l2norm(x)
    y.sum().backward()
    assert_close(y.numpy(), [[0, 0], [0.6, 0.8]], 5)
    assert np.isfinite(x.grad.numpy()).all()


def test_poolings_leave_the_padding_out() -> None:
    sequences = -np.random.RandomState(1).rand(3, 4, 5).astype("float32")
    length = [4, 1, 3]
    mean = mean_of(paddle.to_tensor(sequences), paddle.to_tensor(length)).numpy()
    largest = max_of(paddle.to_tensor(sequences), paddle.to_tensor(length)).numpy()
    for row in range(3):
        assert_close(mean[row], sequences[row, : length[row]].mean(axis=0), 4 + 2)
        np.testing.assert_array_equal(largest[row], sequences[row, : length[row]].max(axis=0))


def test_a_window_is_a_convolution_over_the_words_around_each() -> None:
    paddle.seed(0)
    encoder = WindowTextEncoder(vocab_size=20, word_dim=3, embed_dim=4, window=5)
    caption = [1, 5, 9, 7]
    found = encoder(paddle.to_tensor([caption]), paddle.to_tensor([4])).numpy()[0]
    words = encoder.embed.weight.numpy()[caption]
    weight = encoder.windows.weight.numpy().reshape(5, 3, 4)  # place in the window, word vector, hidden
    mean = np.zeros(4)
    for position in range(4):
        hidden = encoder.windows.bias.numpy().astype(np.float64)
        for place in range(5):
            neighbour = position + place - 2
            if 0 <= neighbour < 4:
                hidden += words[neighbour] @ weight[place]
        mean += np.maximum(hidden, 0) / 4
    mapped = mean @ encoder.out.weight.numpy() + encoder.out.bias.numpy()
    length = np.linalg.norm(mapped)
    assert_close(found, mapped / length, 15 + 4 + 4 + 4, scale=1 / length)


def test_a_window_of_an_even_number_of_words_is_refused() -> None:
    with pytest.raises(ValueError, match="window: expected an odd number of words, got 4"):
        WindowTextEncoder(vocab_size=20, word_dim=3, embed_dim=4, window=4)


def test_an_unknown_pooling_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match="last.*max.*mean.*'sum'"):
        GRUTextEncoder(vocab_size=20, word_dim=6, embed_dim=8, pooling="sum")


def test_dropout_acts_in_training_only() -> None:
    image = ImageEncoder(feature_dim=50, embed_dim=8, dropout=0.5)
    text = GRUTextEncoder(vocab_size=20, word_dim=50, embed_dim=8, dropout=0.5)
    inputs = {image: [paddle.ones([1, 50])], text: [paddle.to_tensor([[3, 4]]), paddle.to_tensor([2])]}
    for encoder, arguments in inputs.items():
        assert np.abs((encoder(*arguments) - encoder(*arguments)).numpy()).max() > 0
        encoder.eval()
        np.testing.assert_array_equal(encoder(*arguments).numpy(), encoder(*arguments).numpy())


def test_feature_norm_standardises_and_only_centres_a_constant_feature() -> None:
    features = np.array([[1.0, 7.0], [3.0, 7.0]], dtype="float32")
    norm = FeatureNorm(2, features.mean(axis=0), features.std(axis=0))
    np.testing.assert_allclose(norm(paddle.to_tensor(features)).numpy(), [[-1, 0], [1, 0]])


def test_feature_norm_travels_in_the_checkpoint_and_is_never_trained() -> None:
    encoder = ImageEncoder(feature_dim=2, embed_dim=3, feature_norm=FeatureNorm(2))
    assert {"feature_norm.mean", "feature_norm.deviation"} <= set(encoder.state_dict())
    assert sorted(name for name, _ in encoder.named_parameters()) == ["fc.bias", "fc.weight"]
    features = paddle.to_tensor([[1.0, -2.0]])
    np.testing.assert_array_equal(encoder.feature_norm(features).numpy(), features.numpy())
