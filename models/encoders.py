"""Encoders that map image features and captions into the joint embedding."""

import math

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.nn import functional

from models.kernels.row_blocks import uses_cpu_kernels
from models.layers.lowered import Linear
from models.layers.prefix_encoding import PrefixTree, prefix_states, prefix_tree, whole_states
from models.layers.unit_columns import unit_columns
from models.layers.word_windows import WordWindows, mean_of_windows

SMALLEST_NORM = 1e-8  # keeps the gradient finite at a zero vector; far below any trained norm


def l2norm(x: Tensor, axis: int = -1) -> Tensor:
    """Return `x` divided by its l2 norm along `axis`; a zero vector stays zero."""
    if x.dtype in (paddle.float16, paddle.bfloat16):
        x = x.astype("float32")  # squares underflow in half precision
    if axis == 1 and x.ndim == 3 and uses_cpu_kernels(x):
        return unit_columns(x, SMALLEST_NORM)
    squares = (x * x).sum(axis=axis, keepdim=True)
    return x / paddle.sqrt(squares.clip(min=SMALLEST_NORM**2))


def is_real(sequences: Tensor, length: Tensor) -> Tensor:
    """Return bool [B,T], true at the first `length[b]` positions of sequence b of `sequences` [B,T,D]."""
    return paddle.arange(sequences.shape[1]).unsqueeze(0) < length.unsqueeze(1)


def state_at(outputs: Tensor, position: Tensor) -> Tensor:
    """Return the row [B,D] at `position[b]` of each sequence b of `outputs` [B,T,D]."""
    batch = paddle.arange(outputs.shape[0], dtype=position.dtype)
    return outputs.gather_nd(paddle.stack([batch, position], axis=1))


def last_of(sequences: Tensor, length: Tensor) -> Tensor:
    """Return the last row [B,D] of each of `sequences` [B,T,D], of `length` [B]."""
    return state_at(sequences, length - 1)


def mean_of(sequences: Tensor, length: Tensor) -> Tensor:
    """Return the mean [B,D] of the first `length[b]` rows of each sequence b of `sequences` [B,T,D]."""
    weights = is_real(sequences, length).astype(sequences.dtype) / length.astype(sequences.dtype).unsqueeze(1)
    return (weights.unsqueeze(1) @ sequences).squeeze(1)  # [B,1,T] @ [B,T,D] -> [B,D]


def max_of(sequences: Tensor, length: Tensor) -> Tensor:
    """Return the maximum [B,D], by component, of the first `length[b]` rows of each sequence b, [B,T,D]."""
    padding = ~is_real(sequences, length).unsqueeze(2)
    largest = sequences.detach().masked_fill(padding, -1e4).argmax(axis=1, keepdim=True)  # [B,1,D]
    # On the CPU the gradient of Paddle's max takes thirty times as long.
    return paddle.take_along_axis(sequences, largest, axis=1).squeeze(1)


def recurrent_states(rnn: nn.GRU, sequences: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Return the states [B,T,D] of a forward `rnn` over `sequences` [B,T,E], and the last states [B,D].

    Sequence b has `length[b]` positions (`length` [B]); the states at its padding have no meaning.
    """
    if not uses_cpu_kernels(sequences):
        states, _ = rnn(sequences)
        return states, last_of(states, length)
    rows, tree = _by_step(sequences, length)
    states = prefix_states(rnn, rows, tree)
    return functional.embedding(tree.paths, states), functional.embedding(tree.whole, states)


def last_state(rnn: nn.GRU, sequences: Tensor, length: Tensor) -> Tensor:
    """Return the state [B,D] of a forward `rnn` after `length` [B] positions of `sequences` [B,T,E]."""
    if not uses_cpu_kernels(sequences):
        return last_of(rnn(sequences)[0], length)
    rows, tree = _by_step(sequences, length)
    return whole_states(rnn, rows, tree)


def _by_step(sequences: Tensor, length: Tensor) -> tuple[Tensor, PrefixTree]:
    """Return the rows [P,E] at all positions but padding, step by step, and the tree that numbers them."""
    places = paddle.arange(sequences.shape[0] * sequences.shape[1]).reshape(sequences.shape[:2])
    tree = prefix_tree(places, length, share=False)
    return sequences.reshape([-1, sequences.shape[2]]).gather(tree.words), tree


POOLINGS = {"last": last_of, "mean": mean_of, "max": max_of}


def word_embedding(vocab_size: int, word_dim: int) -> nn.Embedding:
    """Return word embeddings, uniform in [-0.1, 0.1]; padding has a trained embedding too, as in VSE++."""
    uniform = paddle.ParamAttr(initializer=nn.initializer.Uniform(-0.1, 0.1))
    return nn.Embedding(vocab_size, word_dim, weight_attr=uniform)


class FeatureNorm(nn.Layer):
    """Standardisation of features by a mean and a deviation that are stored in the checkpoint.

    `mean` and `deviation` (the standard deviation) are [F]; without them the layer is the identity until
    weights are loaded. A constant feature, of deviation 0, is centred alone.
    """

    def __init__(self, dim: int, mean: np.ndarray | None = None, deviation: np.ndarray | None = None) -> None:
        super().__init__()
        mean = paddle.zeros([dim]) if mean is None else paddle.to_tensor(mean, dtype="float32")
        deviation = paddle.ones([dim]) if deviation is None else paddle.to_tensor(deviation, dtype="float32")
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", paddle.where(deviation > 0, deviation, paddle.ones_like(deviation)))

    def forward(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.deviation


class ImageEncoder(nn.Layer):
    """A linear map of precomputed image features into the joint embedding (VSE, VSE++).

    The weights are initially uniform in +-sqrt(6 / (in + out)) and the bias 0. `dropout` is the share of the
    features that is dropped in training. With `normalize` the embedding is l2-normalised; with `absolute` its
    absolute value is taken afterwards, as order embeddings need.
    """

    def __init__(
        self,
        feature_dim: int,
        embed_dim: int,
        normalize: bool = True,
        absolute: bool = False,
        dropout: float = 0.0,
        feature_norm: FeatureNorm | None = None,
    ) -> None:
        super().__init__()
        bound = math.sqrt(6.0 / (feature_dim + embed_dim))
        uniform = paddle.ParamAttr(initializer=nn.initializer.Uniform(-bound, bound))
        zero = paddle.ParamAttr(initializer=nn.initializer.Constant(0.0))
        self.feature_norm = feature_norm
        self.dropout = nn.Dropout(dropout)
        self.fc = Linear(feature_dim, embed_dim, weight_attr=uniform, bias_attr=zero)
        self.normalize = normalize
        self.absolute = absolute

    def forward(self, features: Tensor) -> Tensor:
        """Return the embeddings [B,D] of `features` [B,F]."""
        if self.feature_norm is not None:
            features = self.feature_norm(features)
        embedding = self.fc(self.dropout(features))
        if self.normalize:
            embedding = l2norm(embedding)
        return embedding.abs() if self.absolute else embedding


class RecurrentTextEncoder(nn.Layer):
    """A caption encoder: a recurrent network over word embeddings.

    `pooling` reduces the network's states to one vector: the "last", the "mean" or the "max". `dropout` is
    the share of each word embedding that is dropped in training. The embedding is l2-normalised; with
    `absolute` its absolute value is taken afterwards.
    """

    def __init__(
        self, embed: nn.Embedding, rnn: nn.GRU | nn.LSTM, pooling: str, dropout: float, absolute: bool
    ) -> None:
        """Raise ValueError if `pooling` is unknown."""
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"pooling: expected one of {sorted(POOLINGS)}, got {pooling!r}")
        self.embed = embed
        self.dropout = nn.Dropout(dropout)
        self.rnn = rnn
        self.bidirectional = rnn.num_directions == 2
        self.pooling = pooling
        self.absolute = absolute

    def forward(self, token_ids: Tensor, text_len: Tensor) -> Tensor:
        """Return the embeddings [B,D] of captions `token_ids` [B,T] with `text_len` [B] tokens each."""
        if self.bidirectional:
            state = self._both_ways(self.dropout(self.embed(token_ids)), text_len)
        elif uses_cpu_kernels(token_ids):
            state = self._by_prefix(token_ids, text_len)
        else:
            outputs, _ = self.rnn(self.dropout(self.embed(token_ids)))  # [B,T,D]
            state = POOLINGS[self.pooling](outputs, text_len)  # padding comes later than the states
        embedding = l2norm(state)
        return embedding.abs() if self.absolute else embedding

    def _by_prefix(self, token_ids: Tensor, text_len: Tensor) -> Tensor:
        dropping = self.training and self.dropout.p > 0  # dropout makes equal words differ
        tree = prefix_tree(token_ids, text_len, share=not dropping)
        words = self.dropout(self.embed(tree.words))
        if self.pooling == "last":
            return whole_states(self.rnn, words, tree)
        states = prefix_states(self.rnn, words, tree)  # [P,D]
        return POOLINGS[self.pooling](functional.embedding(tree.paths, states), text_len)

    def _both_ways(self, words: Tensor, text_len: Tensor) -> Tensor:
        # The backward direction starts at each caption's end, so it needs the lengths.
        outputs, _ = self.rnn(words, sequence_length=text_len)
        forward, backward = outputs.chunk(2, axis=-1)  # [B,T,D] each
        if self.pooling == "last":
            return (last_of(forward, text_len) + backward[:, 0]) / 2
        return POOLINGS[self.pooling]((forward + backward) / 2, text_len)


class GRUTextEncoder(RecurrentTextEncoder):
    """A caption encoder with a GRU (VSE++, SCAN, VSRN); with `bidirectional`, both states are averaged."""

    def __init__(
        self,
        vocab_size: int,
        word_dim: int,
        embed_dim: int,
        num_layers: int = 1,
        bidirectional: bool = False,
        pooling: str = "last",
        dropout: float = 0.0,
        absolute: bool = False,
    ) -> None:
        embed = word_embedding(vocab_size, word_dim)
        direction = "bidirect" if bidirectional else "forward"
        rnn = nn.GRU(word_dim, embed_dim, num_layers=num_layers, direction=direction)
        super().__init__(embed, rnn, pooling, dropout, absolute)


class LSTMTextEncoder(RecurrentTextEncoder):
    """A caption encoder with an LSTM (VSE)."""

    def __init__(
        self,
        vocab_size: int,
        word_dim: int,
        embed_dim: int,
        pooling: str = "last",
        dropout: float = 0.0,
        absolute: bool = False,
    ) -> None:
        embed = word_embedding(vocab_size, word_dim)
        super().__init__(embed, nn.LSTM(word_dim, embed_dim), pooling, dropout, absolute)


class WindowTextEncoder(nn.Layer):
    """A caption encoder with a convolution over windows of words (Kim 2014, arXiv 1408.5882).

    A window of `window` words, an odd number, becomes relu(W x + b) of its word embeddings x; the embedding
    is a linear map of the mean over all windows, l2-normalised. A recurrent network must carry up to the end
    what the adjective of each noun was; a window sees a noun and what is said of it at once. With `absolute`
    the embedding's absolute value is taken afterwards.
    """

    def __init__(
        self,
        vocab_size: int,
        word_dim: int,
        embed_dim: int,
        window: int,
        dropout: float = 0.0,
        absolute: bool = False,
    ) -> None:
        """Raise ValueError if `window` is even."""
        super().__init__()
        if window % 2 == 0:
            raise ValueError(f"window: expected an odd number of words, got {window}")
        self.embed = word_embedding(vocab_size, word_dim)
        self.dropout = nn.Dropout(dropout)
        self.window = window
        self.windows = Linear(window * word_dim, embed_dim)
        self.out = Linear(embed_dim, embed_dim)
        self.absolute = absolute

    def forward(self, token_ids: Tensor, text_len: Tensor) -> Tensor:
        """Return the embeddings [B,D] of captions `token_ids` [B,T] with `text_len` [B] tokens each."""
        dropping = self.training and self.dropout.p > 0  # dropout makes equal words differ
        by_word = uses_cpu_kernels(token_ids) and not dropping
        mean = self._mean_by_word(token_ids, text_len) if by_word else self._mean(token_ids, text_len)
        embedding = l2norm(self.out(mean))
        return embedding.abs() if self.absolute else embedding

    def _mean_by_word(self, token_ids: Tensor, text_len: Tensor) -> Tensor:
        windows = WordWindows.of(token_ids.numpy(), text_len.numpy(), self.window)
        vectors = self.embed(paddle.to_tensor(windows.words))
        return mean_of_windows(vectors, self.windows.weight, self.windows.bias, windows)

    def _mean(self, token_ids: Tensor, text_len: Tensor) -> Tensor:
        words = self.dropout(self.embed(token_ids))  # [B,T,E]
        words = words * is_real(words, text_len).astype(words.dtype).unsqueeze(2)
        length, reach = words.shape[1], self.window // 2
        padded = functional.pad(words, [0, 0, reach, reach, 0, 0])
        # [B,T,window*E]
        windows = paddle.concat([padded[:, i : i + length] for i in range(self.window)], axis=2)
        return mean_of(functional.relu(self.windows(windows)), text_len)
