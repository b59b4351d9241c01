"""BERT over text and image regions (Devlin et al. 2019, arXiv 1810.04805; Oscar, arXiv 2004.06165)."""

from dataclasses import dataclass

import numpy as np
import paddle
from paddle import Tensor, nn

from models.row_layers import Linear, ResidualNorm, gelu
from models.sequences import Sequences, attend, real_places

REGION = 2  # the kind of a region's row; those of text have their segment, 0 or 1


@dataclass(frozen=True)
class BertShape:
    """The sizes of a BERT; the defaults are BERT-base's.

    `region_dim` is the width of an image region, 0 for text alone; `region_norm` normalises what
    becomes of it.
    """

    vocab_size: int
    hidden_dim: int = 768
    num_layers: int = 12
    num_heads: int = 12
    inner_dim: int = 3072
    max_positions: int = 512
    num_segments: int = 2
    norm_epsilon: float = 1e-12
    region_dim: int = 0
    region_norm: bool = True
    region_norm_epsilon: float = 1e-12
    dropout: float = 0.1
    attention_dropout: float = 0.1
    initial_deviation: float = 0.02


def initialised(deviation: float) -> paddle.ParamAttr:
    """Return the initialisation of BERT's matrices: normal, with that standard deviation."""
    return paddle.ParamAttr(initializer=nn.initializer.Normal(0.0, deviation))


def linear(in_dim: int, out_dim: int, deviation: float) -> Linear:
    """Return a linear layer with BERT's initialisation: normal weights, and a bias of zeros."""
    zero = paddle.ParamAttr(initializer=nn.initializer.Constant(0.0))
    return Linear(in_dim, out_dim, weight_attr=initialised(deviation), bias_attr=zero)


class TextEmbedding(nn.Layer):
    """The sum of a token's word, position and segment vectors, normalised."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        dim, attr = shape.hidden_dim, initialised(shape.initial_deviation)
        self.words = nn.Embedding(shape.vocab_size, dim, weight_attr=attr)
        self.positions = nn.Embedding(shape.max_positions, dim, weight_attr=attr)
        self.segments = nn.Embedding(shape.num_segments, dim, weight_attr=attr)
        self.norm = nn.LayerNorm(dim, shape.norm_epsilon)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, words: Tensor, positions: Tensor, segments: Tensor) -> Tensor:
        """Return [P,D] of three times [P]."""
        vectors = self.words(words) + self.positions(positions) + self.segments(segments)
        return self.dropout(self.norm(vectors))


class RegionEmbedding(nn.Layer):
    """A linear map of a region's features, normalised; regions have no positions or segments."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.fc = linear(shape.region_dim, shape.hidden_dim, shape.initial_deviation)
        self.norm = (
            nn.LayerNorm(shape.hidden_dim, shape.region_norm_epsilon) if shape.region_norm else nn.Identity()
        )
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, regions: Tensor) -> Tensor:
        """Return [P,D] of `regions` [P,F]."""
        return self.dropout(self.norm(self.fc(regions)))


class BertLayer(nn.Layer):
    """A transformer layer: attention, then two linear maps around a gelu; each with a residual and a norm."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        dim, deviation = shape.hidden_dim, shape.initial_deviation
        self.num_heads = shape.num_heads
        self.attention_dropout = shape.attention_dropout
        self.query = linear(dim, dim, deviation)
        self.key_value = linear(dim, 2 * dim, deviation)
        self.attended = linear(dim, dim, deviation)
        self.attended_norm = ResidualNorm(dim, shape.norm_epsilon, shape.dropout)
        self.widen = linear(dim, shape.inner_dim, deviation)
        self.narrow = linear(shape.inner_dim, dim, deviation)
        self.norm = ResidualNorm(dim, shape.norm_epsilon, shape.dropout)

    def forward(self, rows: Tensor, sequences: Sequences) -> Tensor:
        """Return the new `rows` [P,D]."""
        return self._step(rows, rows, sequences)

    def first_rows(self, rows: Tensor, sequences: Sequences) -> Tensor:
        """Return the new first row of each sequence alone, [B,D]."""
        return self._step(rows.gather(sequences.first), rows, sequences)

    def _step(self, asking: Tensor, rows: Tensor, sequences: Sequences) -> Tensor:
        dropout = self.attention_dropout if self.training else 0.0
        context = attend(self.query(asking), self.key_value(rows), sequences, self.num_heads, dropout)
        attended = self.attended_norm(self.attended(context), asking)
        return self.norm(self.narrow(gelu(self.widen(attended))), attended)


class Bert(nn.Layer):
    """BERT's encoder, with rows for image regions beside those for tokens.

    Positions behind a text's end and behind the last region are left out of all work, so that no result
    depends on how far a batch is padded.
    """

    def __init__(self, shape: BertShape) -> None:
        """Raise ValueError when the heads do not divide the width."""
        super().__init__()
        if shape.hidden_dim % shape.num_heads:
            raise ValueError(
                f"expected a hidden_dim that num_heads divides, got {shape.hidden_dim} and {shape.num_heads}"
            )
        self.max_positions = shape.max_positions
        self.embeddings = TextEmbedding(shape)
        self.regions = RegionEmbedding(shape) if shape.region_dim else None
        self.layers = nn.LayerList([BertLayer(shape) for _ in range(shape.num_layers)])
        self.pooler = linear(shape.hidden_dim, shape.hidden_dim, shape.initial_deviation)

    def forward(self, batch: dict[str, Tensor], attends: np.ndarray | None = None) -> Tensor:
        """Return the pooled first rows [B,D] of a batch, tanh(W h + b); see `encode` for the arguments.

        The last layer computes no other rows, and gives them no gradient to pass on.
        """
        rows, sequences = self._embed(batch, attends)
        for layer in self.layers[:-1]:
            rows = layer(rows, sequences)
        return self.pool(self.layers[-1].first_rows(rows, sequences))

    def encode(self, batch: dict[str, Tensor], attends: np.ndarray | None = None) -> tuple[Tensor, Sequences]:
        """Return the last layer's rows [P,D], each pair's text before its regions, and where they stand.

        `batch` has `token_ids` and `segment_ids` [B,T] with `text_len` [B] and, for a model with regions,
        `regions` [B,R,F] with `num_regions` [B]. `attends` (bool [3,3]) says which of segment 0, segment 1
        and the regions attends (rows) to which (columns); None: all to all. Raises ValueError when a text
        is longer than there are positions.
        """
        rows, sequences = self._embed(batch, attends)
        for layer in self.layers:
            rows = layer(rows, sequences)
        return rows, sequences

    def pool(self, first: Tensor) -> Tensor:
        """Return tanh(W h + b) [B,D] of the `first` row h of each sequence [B,D]."""
        return paddle.tanh(self.pooler(first))

    def _embed(self, batch: dict[str, Tensor], attends: np.ndarray | None) -> tuple[Tensor, Sequences]:
        token_ids, segment_ids, text_len = batch["token_ids"], batch["segment_ids"], batch["text_len"].numpy()
        width = token_ids.shape[1]
        if text_len.max() > self.max_positions:
            raise ValueError(
                f"text_len: expected at most {self.max_positions} tokens, the positions of this BERT, got "
                f"{text_len.max()}"
            )
        text = real_places(text_len, width)  # [Pt] places among B x T
        places = paddle.to_tensor(text)
        segments = segment_ids.flatten().gather(places)
        words = token_ids.flatten().gather(places)
        rows = self.embeddings(words, paddle.to_tensor(text % width), segments)
        kinds = None if attends is None else segments.numpy()
        if self.regions is None:
            return rows, Sequences(text_len, kinds, attends)
        regions, num_regions = batch["regions"], batch["num_regions"].numpy()
        count = regions.shape[1]
        seen = real_places(num_regions, count)  # [Pr] places among B x R
        flat = regions.reshape([-1, regions.shape[2]])
        if len(seen) < flat.shape[0]:
            flat = flat.gather(paddle.to_tensor(seen))
        order = np.argsort(np.concatenate([text // width, seen // count]), kind="stable")
        rows = paddle.concat([rows, self.regions(flat)]).gather(paddle.to_tensor(order))
        if kinds is not None:
            kinds = np.concatenate([kinds, np.full(len(seen), REGION)])[order]
        return rows, Sequences(text_len + num_regions, kinds, attends)
