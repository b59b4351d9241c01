"""Encoders that turn image features and captions into vectors of the joint embedding."""

import math

import paddle
from paddle import Tensor, nn

SMALLEST_NORM = 1e-8  # keeps the gradient finite at a zero vector; far below any trained norm


def l2norm(x: Tensor, axis: int = -1) -> Tensor:
    """Return `x` divided by its Euclidean norm along `axis`; a zero vector stays zero."""
    squares = (x * x).sum(axis=axis, keepdim=True)
    return x / paddle.sqrt(squares.clip(min=SMALLEST_NORM**2))


def mean_over_regions(regions: Tensor, num_regions: Tensor) -> Tensor:
    """Return the mean [B,F] of the first `num_regions` [B] of `regions` [B,R,F]."""
    real = paddle.arange(regions.shape[1]).unsqueeze(0) < num_regions.unsqueeze(1)  # [B,R]
    weights = real.astype(regions.dtype) / num_regions.astype(regions.dtype).unsqueeze(1)
    return (weights.unsqueeze(1) @ regions).squeeze(1)  # [B,1,R] @ [B,R,F] -> [B,F]


def state_at(outputs: Tensor, position: Tensor) -> Tensor:
    """Return row `position[b]` of each sequence: [B,T,D], [B] -> [B,D]."""
    batch = paddle.arange(outputs.shape[0], dtype=position.dtype)
    return outputs.gather_nd(paddle.stack([batch, position], axis=1))


def word_embedding(vocab_size: int, word_dim: int) -> nn.Embedding:
    """Return a table of word vectors, uniform in +-0.1; padding has a row like any word (VSE++)."""
    uniform = paddle.ParamAttr(initializer=nn.initializer.Uniform(-0.1, 0.1))
    return nn.Embedding(vocab_size, word_dim, weight_attr=uniform)


class FeatureNorm(nn.Layer):
    """Standardise features with a mean and a deviation that travel in the checkpoint.

    `mean` and `deviation` are [F]; without them the layer is the identity until weights are loaded.
    A feature that never varies (deviation 0) is only centred.
    """

    def __init__(self, dim: int, mean: Tensor | None = None, deviation: Tensor | None = None) -> None:
        super().__init__()
        mean = paddle.zeros([dim]) if mean is None else paddle.to_tensor(mean, dtype="float32")
        deviation = paddle.ones([dim]) if deviation is None else paddle.to_tensor(deviation, dtype="float32")
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", paddle.where(deviation > 0, deviation, paddle.ones_like(deviation)))

    def forward(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.deviation


class ImageEncoder(nn.Layer):
    """Map precomputed image features linearly into the joint embedding (VSE, VSE++).

    Weights start uniform in +-sqrt(6 / (in + out)), the bias at 0. `normalize` takes the l2 norm and
    `absolute` the absolute value afterwards, as order embeddings do.
    """

    def __init__(
        self,
        feature_dim: int,
        embed_dim: int,
        normalize: bool = True,
        absolute: bool = False,
        feature_norm: FeatureNorm | None = None,
    ) -> None:
        super().__init__()
        bound = math.sqrt(6.0 / (feature_dim + embed_dim))
        uniform = paddle.ParamAttr(initializer=nn.initializer.Uniform(-bound, bound))
        zero = paddle.ParamAttr(initializer=nn.initializer.Constant(0.0))
        self.feature_norm = feature_norm
        self.fc = nn.Linear(feature_dim, embed_dim, weight_attr=uniform, bias_attr=zero)
        self.normalize = normalize
        self.absolute = absolute

    def forward(self, features: Tensor) -> Tensor:
        """Encode `features` [B,F] as [B,D]."""
        if self.feature_norm is not None:
            features = self.feature_norm(features)
        embedding = self.fc(features)
        if self.normalize:
            embedding = l2norm(embedding)
        return embedding.abs() if self.absolute else embedding


class GRUTextEncoder(nn.Layer):
    """Encode a caption as the last hidden state of a GRU over its words (VSE++, SCAN, VSRN).

    With `bidirectional`, the states of both directions are averaged. The result is l2-normalised,
    then made absolute if `absolute`.
    """

    def __init__(
        self,
        vocab_size: int,
        word_dim: int,
        embed_dim: int,
        num_layers: int = 1,
        bidirectional: bool = False,
        absolute: bool = False,
    ) -> None:
        super().__init__()
        self.embed = word_embedding(vocab_size, word_dim)
        direction = "bidirect" if bidirectional else "forward"
        self.rnn = nn.GRU(word_dim, embed_dim, num_layers=num_layers, direction=direction)
        self.bidirectional = bidirectional
        self.absolute = absolute

    def forward(self, token_ids: Tensor, text_len: Tensor) -> Tensor:
        """Encode `token_ids` [B,T], of which the first `text_len` [B] count, as [B,D]."""
        last = text_len - 1
        if self.bidirectional:
            # Only the backward direction needs the lengths: it must start at each caption's own end.
            outputs, _ = self.rnn(self.embed(token_ids), sequence_length=text_len)  # [B,T,2D]
            forward, backward = outputs.chunk(2, axis=-1)
            state = (state_at(forward, last) + backward[:, 0]) / 2
        else:
            outputs, _ = self.rnn(self.embed(token_ids))  # [B,T,D]
            state = state_at(outputs, last)
        embedding = l2norm(state)
        return embedding.abs() if self.absolute else embedding


class LSTMTextEncoder(nn.Layer):
    """Encode a caption as the l2-normalised last hidden state of an LSTM over its words (VSE)."""

    def __init__(self, vocab_size: int, word_dim: int, embed_dim: int, absolute: bool = False) -> None:
        super().__init__()
        self.embed = word_embedding(vocab_size, word_dim)
        self.rnn = nn.LSTM(word_dim, embed_dim)
        self.absolute = absolute

    def forward(self, token_ids: Tensor, text_len: Tensor) -> Tensor:
        """Encode `token_ids` [B,T], of which the first `text_len` [B] count, as [B,D]."""
        outputs, _ = self.rnn(self.embed(token_ids))  # [B,T,D]
        embedding = l2norm(state_at(outputs, text_len - 1))
        return embedding.abs() if self.absolute else embedding
