import tracemalloc

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.nn import functional

from models.layers.prefix_encoding import prefix_states, prefix_tree, whole_states
from tests.closeness import assert_close, largest

pytestmark = pytest.mark.usefixtures("with_and_without_mkl")

VOCABULARY, WORD_DIM, EMBED_DIM = 12, 5, 8

# Captions that begin alike, that repeat, that are the beginning of another, and one of a single word.
CAPTIONS = [[1, 4, 5, 6, 2], [1, 4, 5, 7], [1, 4, 5], [3], [1, 4, 5, 6, 2], [1, 8, 5, 6], [3, 4]]

# A step multiplies word and state and passes both through three gates; a state is at most 1.
ROUNDINGS = max(map(len, CAPTIONS)) * (WORD_DIM + EMBED_DIM + 12)


def padded(captions, padding=0):
    """Return token ids [B,T] and lengths [B]."""
    lengths = np.array([len(caption) for caption in captions])
    tokens = np.full((len(captions), lengths.max()), padding)
    for row, caption in enumerate(captions):
        tokens[row, : len(caption)] = caption
    return paddle.to_tensor(tokens), paddle.to_tensor(lengths)


def spelled_out(tree):
    """Return the tokens of each prefix of a tree, read from its words and parents."""
    words = tree.words.numpy()
    if tree.word_of_prefix is not None:
        words = words[tree.word_of_prefix]
    prefixes = []
    for level, parents in enumerate(tree.parents):
        start, end = tree.starts[level : level + 2]
        rows = range(end - start) if parents is None else parents
        before = [prefixes[tree.starts[level - 1] + row] if level else () for row in rows]
        prefixes += [(*before[row], int(words[start + row])) for row in range(end - start)]
    return prefixes


@pytest.mark.parametrize("captions", [CAPTIONS, CAPTIONS[3:4], [[5, 5, 5]] * 3, [[1], [2], [3]]])
def test_a_tree_holds_every_prefix_and_every_word_once(captions):
    tree = prefix_tree(*padded(captions))
    prefixes = spelled_out(tree)
    expected = {tuple(caption[: end + 1]) for caption in captions for end in range(len(caption))}
    assert len(prefixes) == tree.starts[-1] == len(expected)
    assert set(prefixes) == expected
    assert sorted(tree.words.tolist()) == sorted({token for caption in captions for token in caption})


def test_a_tree_without_sharing_has_a_prefix_for_every_token():
    tree = prefix_tree(*padded(CAPTIONS), share=False)
    expected = [tuple(caption[: end + 1]) for caption in CAPTIONS for end in range(len(caption))]
    assert sorted(spelled_out(tree)) == sorted(expected)
    assert len(tree.words) == len(expected)


@pytest.mark.parametrize("share", [True, False])
def test_paths_follow_each_caption_to_its_end(share):
    tree = prefix_tree(*padded(CAPTIONS), share=share)
    prefixes, paths = spelled_out(tree), tree.paths.numpy()
    for row, caption in enumerate(CAPTIONS):
        path = [prefixes[index] for index in paths[row, : len(caption)]]
        assert path == [tuple(caption[: end + 1]) for end in range(len(caption))]
        assert not paths[row, len(caption) :].any()
        assert prefixes[int(tree.whole[row])] == tuple(caption)


@pytest.fixture
def double_precision():
    paddle.set_default_dtype("float64")
    yield
    paddle.set_default_dtype("float32")


def ordinary_states(embedding, rnn, tokens, lengths):
    return rnn(embedding(tokens))[0]  # [B,T,D]


def shared_states(embedding, rnn, tokens, lengths, share=True):
    tree = prefix_tree(tokens, lengths, share)
    return functional.embedding(tree.paths, prefix_states(rnn, embedding(tree.words), tree))


def unshared_states(embedding, rnn, tokens, lengths):
    return shared_states(embedding, rnn, tokens, lengths, share=False)


@pytest.mark.parametrize("encode", [shared_states, unshared_states])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_states_and_gradients_are_those_of_the_ordinary_layer(kind, layers, encode, double_precision):
    paddle.seed(0)
    embedding, rnn = nn.Embedding(VOCABULARY, WORD_DIM), kind(WORD_DIM, EMBED_DIM, num_layers=layers)
    tokens, lengths = padded(CAPTIONS)
    counted = paddle.arange(tokens.shape[1]).unsqueeze(0) < lengths.unsqueeze(1)  # [B,T]
    weights = paddle.randn([*tokens.shape, EMBED_DIM]) * counted.unsqueeze(2).astype("float64")
    parameters = dict([*embedding.named_parameters(), *rnn.named_parameters()])
    found = []
    for function in (ordinary_states, encode):
        states = function(embedding, rnn, tokens, lengths)
        (states * weights).sum().backward()
        gradients = {name: parameter.grad.numpy() for name, parameter in parameters.items()}
        found.append((states.numpy()[counted.numpy()], gradients))
        for parameter in parameters.values():
            parameter.clear_gradient(set_to_zero=False)
    (expected, expected_gradients), (states, gradients) = found
    assert_close(states, expected, ROUNDINGS * layers, scale=1.0)
    assert gradients.keys() == expected_gradients.keys()
    size = largest(expected_gradients.values())
    for name, gradient in gradients.items():
        assert_close(gradient, expected_gradients[name], 2 * ROUNDINGS * layers, size, err_msg=name)


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_in_single_precision_only_rounding_differs(kind):
    paddle.seed(0)
    embedding, rnn = nn.Embedding(VOCABULARY, WORD_DIM), kind(WORD_DIM, EMBED_DIM)
    tokens, lengths = padded(CAPTIONS)
    with paddle.no_grad():
        expected = ordinary_states(embedding, rnn, tokens, lengths).numpy()
        states = shared_states(embedding, rnn, tokens, lengths).numpy()
    for row, caption in enumerate(CAPTIONS):
        assert_close(states[row, : len(caption)], expected[row, : len(caption)], ROUNDINGS, scale=1.0)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_whole_captions_have_the_last_states_of_their_paths_to_the_last_bit(kind, layers):
    random = np.random.default_rng(0)
    captions = [random.integers(1, 4, random.integers(1, 9)).tolist() for _ in range(300)]
    embedding, rnn = nn.Embedding(VOCABULARY, WORD_DIM), kind(WORD_DIM, EMBED_DIM, num_layers=layers)
    tree = prefix_tree(*padded(captions))
    expected = functional.embedding(tree.whole, prefix_states(rnn, embedding(tree.words), tree))
    np.testing.assert_array_equal(whole_states(rnn, embedding(tree.words), tree), expected)
    with paddle.no_grad():
        np.testing.assert_array_equal(whole_states(rnn, embedding(tree.words), tree), expected)


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_without_gradients_states_of_two_steps_are_in_memory(kind):
    steps, width = 2000, 256
    embedding, rnn = nn.Embedding(VOCABULARY, WORD_DIM), kind(WORD_DIM, width)
    tree = prefix_tree(*padded([[1] * steps]))
    peaks = {}
    with paddle.no_grad():
        words = embedding(tree.words)
        for states in (prefix_states, whole_states):
            tracemalloc.start()
            states(rnn, words, tree)
            peaks[states] = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    # An LSTM without gradients keeps the cells of two steps in either case. The rest is each step's objects.
    assert peaks[prefix_states] - peaks[whole_states] > 0.8 * steps * width * 4


def test_frozen_parameters_get_no_gradient():
    embedding, rnn = nn.Embedding(VOCABULARY, WORD_DIM), nn.GRU(WORD_DIM, EMBED_DIM)
    frozen = [embedding.weight, rnn.weight_hh_l0, rnn.bias_ih_l0]
    for parameter in frozen:
        parameter.stop_gradient = True
    shared_states(embedding, rnn, *padded(CAPTIONS)).sum().backward()
    for parameter in [*embedding.parameters(), *rnn.parameters()]:
        is_frozen = any(parameter is other for other in frozen)
        assert (parameter.grad is None) == is_frozen


@pytest.mark.parametrize("share", [True, False])
def test_what_padding_holds_does_not_matter(share):
    trees = [prefix_tree(*padded(CAPTIONS, padding), share=share) for padding in (0, 9)]
    assert spelled_out(trees[0]) == spelled_out(trees[1])
    np.testing.assert_array_equal(trees[0].paths.numpy(), trees[1].paths.numpy())
