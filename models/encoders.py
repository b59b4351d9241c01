"""Encoders that turn image features and captions into vectors of the joint embedding."""

import math

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.nn import functional

from models.kernels.row_blocks import uses_cpu_kernels
from models.layers.prefix_encoding import PrefixTree, prefix_states, prefix_tree

SMALLEST_NORM = 1e-8  # keeps the gradient finite at a zero vector; far below any trained norm


def l2norm(x: Tensor, axis: int = -1) -> Tensor:
    """Return `x` divided by its Euclidean norm along `axis`; a zero vector stays zero."""
    if x.dtype in (paddle.float16, paddle.bfloat16):
        x = x.astype("float32")  # the squares of half precision underflow
    squares = (x * x).sum(axis=axis, keepdim=True)
    return x / paddle.sqrt(squares.clip(min=SMALLEST_NORM**2))


def is_real(sequences: Tensor, length: Tensor) -> Tensor:
    """Return bool [B,T], true at the first `length` [B] places of each of `sequences` [B,T,D]."""
    return paddle.arange(sequences.shape[1]).unsqueeze(0) < length.unsqueeze(1)


def state_at(outputs: Tensor, position: Tensor) -> Tensor:
    """Return row `position[b]` of each sequence: [B,T,D], [B] -> [B,D]."""
    batch = paddle.arange(outputs.shape[0], dtype=position.dtype)
    return outputs.gather_nd(paddle.stack([batch, position], axis=1))


def last_of(sequences: Tensor, length: Tensor) -> Tensor:
    """Return the vector [B,D] at each sequence's end: [B,T,D], [B] -> [B,D]."""
    return state_at(sequences, length - 1)


def mean_of(sequences: Tensor, length: Tensor) -> Tensor:
    """Return the mean of the first `length` vectors of each sequence: [B,T,D], [B] -> [B,D]."""
    weights = is_real(sequences, length).astype(sequences.dtype) / length.astype(sequences.dtype).unsqueeze(1)
    return (weights.unsqueeze(1) @ sequences).squeeze(1)  # [B,1,T] @ [B,T,D] -> [B,D]


def max_of(sequences: Tensor, length: Tensor) -> Tensor:
    """Return the largest of the first `length` vectors, by component: [B,T,D], [B] -> [B,D]."""
    padding = ~is_real(sequences, length).unsqueeze(2)
    largest = sequences.detach().masked_fill(padding, -1e4).argmax(axis=1, keepdim=True)  # [B,1,D]
    # On the CPU the gradient of Paddle's max takes thirty times as long.
    return paddle.take_along_axis(sequences, largest, axis=1).squeeze(1)


def recurrent_states(rnn: nn.GRU, sequences: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Return the states [B,T,D] of a forward `rnn` over `sequences` [B,T,E], and the last of each [B,D].

    The first `length` [B] places of a sequence count; what stands at the others has no meaning.
    """
    if not uses_cpu_kernels(sequences):
        states, _ = rnn(sequences)
        return states, last_of(states, length)
    states, tree = _states_by_step(rnn, sequences, length)
    return functional.embedding(tree.paths, states), functional.embedding(tree.whole, states)


def last_state(rnn: nn.GRU, sequences: Tensor, length: Tensor) -> Tensor:
    """Return the state [B,D] of a forward `rnn` after the first `length` [B] of `sequences` [B,T,E]."""
    if not uses_cpu_kernels(sequences):
        return last_of(rnn(sequences)[0], length)
    states, tree = _states_by_step(rnn, sequences, length)
    return functional.embedding(tree.whole, states)


def _states_by_step(rnn: nn.GRU, sequences: Tensor, length: Tensor) -> tuple[Tensor, PrefixTree]:
    """Return the states [P,D] of all places that count, step by step, and which is which."""
    places = paddle.arange(sequences.shape[0] * sequences.shape[1]).reshape(sequences.shape[:2])
    tree = prefix_tree(places, length, share=False)
    rows = sequences.reshape([-1, sequences.shape[2]]).gather(tree.words)
    return prefix_states(rnn, rows, tree), tree


POOLINGS = {"last": last_of, "mean": mean_of, "max": max_of}


def word_embedding(vocab_size: int, word_dim: int) -> nn.Embedding:
    """Return a table of word vectors, uniform in +-0.1; padding has a row like any word (VSE++)."""
    uniform = paddle.ParamAttr(initializer=nn.initializer.Uniform(-0.1, 0.1))
    return nn.Embedding(vocab_size, word_dim, weight_attr=uniform)


class FeatureNorm(nn.Layer):
    """Standardise features with a mean and a deviation that travel in the checkpoint.

    `mean` and `deviation` are [F]; without them the layer is the identity until weights are loaded.
    A feature that never varies (deviation 0) is only centred.
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
    """Map precomputed image features linearly into the joint embedding (VSE, VSE++).

    Weights start uniform in +-sqrt(6 / (in + out)), the bias at 0. `dropout` is the share of the
    features that is dropped in training; `normalize` takes the l2 norm and `absolute` the absolute
    value afterwards, as order embeddings do.
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
        self.fc = nn.Linear(feature_dim, embed_dim, weight_attr=uniform, bias_attr=zero)
        self.normalize = normalize
        self.absolute = absolute

    def forward(self, features: Tensor) -> Tensor:
        """Encode `features` [B,F] as [B,D]."""
        if self.feature_norm is not None:
            features = self.feature_norm(features)
        embedding = self.fc(self.dropout(features))
        if self.normalize:
            embedding = l2norm(embedding)
        return embedding.abs() if self.absolute else embedding


class RecurrentTextEncoder(nn.Layer):
    """Encode a caption by a recurrent network over its word vectors.

    `pooling` makes one vector of the network's states: the "last", their "mean" or "max". `dropout`
    is the share of each word vector that is dropped in training. The result is l2-normalised, then
    made absolute if `absolute`.
    """

    def __init__(
        self, embed: nn.Embedding, rnn: nn.GRU | nn.LSTM, pooling: str, dropout: float, absolute: bool
    ) -> None:
        """Raise ValueError when `pooling` is unknown."""
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
        """Encode `token_ids` [B,T], of which the first `text_len` [B] count, as [B,D]."""
        if self.bidirectional:
            state = self._both_ways(self.dropout(self.embed(token_ids)), text_len)
        elif uses_cpu_kernels(token_ids):
            state = self._by_prefix(token_ids, text_len)
        else:
            outputs, _ = self.rnn(self.dropout(self.embed(token_ids)))  # [B,T,D]
            state = POOLINGS[self.pooling](outputs, text_len)  # what follows a caption's end cannot reach it
        embedding = l2norm(state)
        return embedding.abs() if self.absolute else embedding

    def _by_prefix(self, token_ids: Tensor, text_len: Tensor) -> Tensor:
        dropping = self.training and self.dropout.p > 0  # then no two words are the same
        tree = prefix_tree(token_ids, text_len, share=not dropping)
        states = prefix_states(self.rnn, self.dropout(self.embed(tree.words)), tree)  # [P,D]
        if self.pooling == "last":
            return functional.embedding(tree.whole, states)
        return POOLINGS[self.pooling](functional.embedding(tree.paths, states), text_len)

    def _both_ways(self, words: Tensor, text_len: Tensor) -> Tensor:
        # The backward direction must start at each caption's own end, so it needs the lengths.
        outputs, _ = self.rnn(words, sequence_length=text_len)
        forward, backward = outputs.chunk(2, axis=-1)  # [B,T,D] each
        if self.pooling == "last":
            return (last_of(forward, text_len) + backward[:, 0]) / 2
        return POOLINGS[self.pooling]((forward + backward) / 2, text_len)


class GRUTextEncoder(RecurrentTextEncoder):
    """Encode a caption by a GRU (VSE++, SCAN, VSRN); the states of both directions are averaged."""

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
    """Encode a caption by an LSTM (VSE)."""

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
