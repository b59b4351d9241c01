"""BERT over text and image regions (Devlin et al. 2019, arXiv 1810.04805; Oscar, arXiv 2004.06165)."""

from dataclasses import dataclass

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.nn import functional

from models.kernels.row_blocks import uses_cpu_kernels
from models.layers.bert.layers import asked_rows
from models.layers.bert.pair_rows import PairRows, pair_rows
from models.layers.bert.row_plan import plan_rows
from models.layers.bert.sequences import Sequences, attend_padded
from models.layers.fused import Linear, ResidualNorm


@dataclass(frozen=True)
class BertShape:
    """The sizes of a BERT; the defaults are those of BERT-base.

    `region_dim` is the width of an image region's features, 0 for text alone; with `region_norm`, a layer
    norm follows their linear map. With `position_waves`, the position embeddings start as sinusoids, and not
    at random. `initial_deviation` is the standard deviation of the initial weights.
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
    position_waves: bool = False


def initialised(deviation: float) -> paddle.ParamAttr:
    """Return the initialisation of BERT's matrices: normal, with standard deviation `deviation`."""
    return paddle.ParamAttr(initializer=nn.initializer.Normal(0.0, deviation))


def linear(in_dim: int, out_dim: int, deviation: float) -> Linear:
    """Return a linear layer with BERT's initialisation: normal weights and a bias of 0."""
    zero = paddle.ParamAttr(initializer=nn.initializer.Constant(0.0))
    return Linear(in_dim, out_dim, weight_attr=initialised(deviation), bias_attr=zero)


def sinusoids(count: int, dim: int) -> np.ndarray:
    """Return sinusoidal position embeddings [count,dim] of variance 1 (Vaswani et al. 2017, sec. 3.5).

    Close positions have similar embeddings, so a layer finds a word's neighbours long before it could learn
    them from random embeddings. Wavelengths increase from 2 pi to almost 2 pi `count` positions.
    """
    pairs = -(-dim // 2)
    angles = np.arange(count)[:, None] * float(count) ** -(np.arange(pairs) / pairs)
    values = np.stack([np.sin(angles), np.cos(angles)], axis=2).reshape(count, -1)[:, :dim]
    return (values * np.sqrt(2)).astype(np.float32)


class TextEmbedding(nn.Layer):
    """The sum of a token's word, position and segment embeddings, then a layer norm."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        dim, attr = shape.hidden_dim, initialised(shape.initial_deviation)
        self.words = nn.Embedding(shape.vocab_size, dim, weight_attr=attr)
        self.positions = nn.Embedding(shape.max_positions, dim, weight_attr=attr)
        if shape.position_waves:
            self.positions.weight.set_value(sinusoids(shape.max_positions, dim) * shape.initial_deviation)
        self.segments = nn.Embedding(shape.num_segments, dim, weight_attr=attr)
        self.norm = nn.LayerNorm(dim, shape.norm_epsilon)

    def forward(self, words: Tensor, positions: Tensor, segments: Tensor) -> Tensor:
        """Return the embeddings [T,D] of tokens with `words`, `positions` and `segments`, each [T]."""
        return self.norm(self.words(words) + self.positions(positions) + self.segments(segments))


class RegionEmbedding(nn.Layer):
    """A linear map of a region's features, then a layer norm; regions have no positions or segments."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.fc = linear(shape.region_dim, shape.hidden_dim, shape.initial_deviation)
        self.norm = (
            nn.LayerNorm(shape.hidden_dim, shape.region_norm_epsilon) if shape.region_norm else nn.Identity()
        )

    def forward(self, regions: Tensor) -> Tensor:
        """Return the embeddings [R,D] of `regions` [R,F]."""
        return self.norm(self.fc(regions))


class BertLayer(nn.Layer):
    """A transformer layer: self-attention and a feed-forward network, each with residual and layer norm."""

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

    def forward(self, rows: Tensor, sequences: Sequences, wanted: Tensor | None = None) -> Tensor:
        """Return the layer's output [P,D] for the `rows` [P,D] of `sequences`, [M,D] if `wanted` [M]."""
        query, key_value = self.query.without_bias(rows), self.key_value.without_bias(rows)
        return self._step(rows, query, key_value, sequences, wanted)

    def forward_distinct(self, distinct: Tensor, origin: Tensor, sequences: Sequences) -> Tensor:
        """Return the layer's output [P,D] if the input row p is row `origin[p]` of `distinct` [U,D]."""
        query, key_value = self.query.without_bias(distinct), self.key_value.without_bias(distinct)
        return self._step(*(rows.gather(origin) for rows in (distinct, query, key_value)), sequences)

    def first_rows(self, rows: Tensor, sequences: Sequences) -> Tensor:
        """Return the layer's output for the first row of each sequence alone, [B,D]."""
        first = rows.gather(sequences.first)
        query, key_value = self.query.without_bias(first), self.key_value.without_bias(rows)
        return self._step(first, query, key_value, sequences)

    def _step(
        self,
        old: Tensor,
        query: Tensor,
        key_value: Tensor,
        sequences: Sequences,
        wanted: Tensor | None = None,
    ) -> Tensor:
        dropout = self.attention_dropout if self.training else 0.0
        biased = query + self.query.bias, key_value + self.key_value.bias
        context = attend_padded(*biased, sequences, self.num_heads, dropout)
        if wanted is not None:
            old, context = old.gather(wanted), context.gather(wanted)
        attended = self.attended_norm(self.attended.without_bias(context), self.attended.bias, old)
        inner = functional.gelu(self.widen(attended))
        return self.norm(self.narrow.without_bias(inner), self.narrow.bias, attended)


class Bert(nn.Layer):
    """BERT's encoder over packed sequences: the rows of a pair's tokens, followed by those of its regions.

    Padding is not computed, so no result depends on the padding of a batch.
    """

    def __init__(self, shape: BertShape) -> None:
        """Raise ValueError if `num_heads` does not divide `hidden_dim`."""
        super().__init__()
        if shape.hidden_dim % shape.num_heads:
            raise ValueError(
                f"expected a hidden_dim that num_heads divides, got {shape.hidden_dim} and {shape.num_heads}"
            )
        self.max_positions = shape.max_positions
        self.embeddings = TextEmbedding(shape)
        self.regions = RegionEmbedding(shape) if shape.region_dim else None
        self.layers = nn.LayerList([BertLayer(shape) for _ in range(shape.num_layers)])
        self.dropout = shape.dropout
        self.pooler = linear(shape.hidden_dim, shape.hidden_dim, shape.initial_deviation)

    def forward(self, batch: dict[str, Tensor], attends: np.ndarray | None = None) -> Tensor:
        """Return the pooled first rows [B,D], tanh(W h + b), of a batch; `encode` explains the arguments.

        The last layer computes the first row of each sequence alone.
        """
        layout = pair_rows(batch, self.regions is not None, attends)
        distinct = self._embed(batch, layout)
        if uses_cpu_kernels(distinct):
            return self.pool(self._asked_rows(distinct, layout, layout.sequences.ends[:-1]))
        rows = self._rows_before_last(distinct, layout)
        return self.pool(self.layers[-1].first_rows(rows, layout.sequences))

    def encode(self, batch: dict[str, Tensor], attends: np.ndarray | None = None) -> tuple[Tensor, Sequences]:
        """Return the last layer's rows [P,D], each pair's text before its regions, and their layout.

        `batch` has `token_ids` and `segment_ids` [B,T] with `text_len` [B] and, for a model with regions, the
        `regions` [I,R,F] and `num_regions` [I] of I images. Pair b has image `image_row[b]` (`image_row`
        [B]), or image b if the batch has no `image_row`. `attends` (bool [3,3]) says which of segment 0,
        segment 1 and the regions (rows) attends to which (columns); None: all to all. Raises ValueError if a
        text has more tokens than BERT has positions.
        """
        layout = pair_rows(batch, self.regions is not None, attends)
        distinct, sequences = self._embed(batch, layout), layout.sequences
        if uses_cpu_kernels(distinct):
            return self._asked_rows(distinct, layout, np.arange(sequences.ends[-1])), sequences
        return self.layers[-1](self._rows_before_last(distinct, layout), sequences), sequences

    def encode_parts(
        self,
        batch: dict[str, Tensor],
        count: int,
        pairs: Tensor,
        places: Tensor,
        attends: np.ndarray | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the pooled first rows [count,D] of the first `count` pairs, and M rows [M,D] of the others.

        Row m is the one at position `places[m]` of pair `pairs[m]` (`places`, `pairs` [M]), which is none of
        the first `count`. Of the first `count` pairs, the last layer computes the first row alone, and of the
        others little more than the M rows.
        """
        layout = pair_rows(batch, self.regions is not None, attends)
        sequences, last = layout.sequences, self.layers[-1]
        distinct = self._embed(batch, layout)
        if uses_cpu_kernels(distinct):
            ends = sequences.ends
            asked = np.concatenate([ends[:count], ends[pairs.numpy()] + places.numpy()])
            found = self._asked_rows(distinct, layout, asked)
            return self.pool(found[:count]), found[count:]
        rows = self._rows_before_last(distinct, layout)
        start = int(sequences.ends[count])
        firsts = last.first_rows(rows[:start], sequences.part(slice(0, count)))
        others = sequences.part(slice(count, len(sequences.length)))
        wanted = others.first.gather(pairs - count) + places
        return self.pool(firsts), last(rows[start:], others, wanted)

    def pool(self, first: Tensor) -> Tensor:
        """Return tanh(W h + b) [B,D] for the `first` row h [B,D] of each sequence."""
        return paddle.tanh(self.pooler(first))

    def _rows_before_last(self, distinct: Tensor, layout: PairRows) -> Tensor:
        """Return the input rows [P,D] of the last layer, given the `distinct` embeddings [U,D].

        Unless dropout makes equal embeddings differ, the first layer maps each distinct embedding once.
        """
        origin = paddle.to_tensor(layout.origin)
        layers = self.layers[:-1]
        if layers and not (self.training and self.dropout):
            rows, layers = layers[0].forward_distinct(distinct, origin, layout.sequences), layers[1:]
        else:
            rows = functional.dropout(distinct.gather(origin), self.dropout, training=self.training)
        for layer in layers:
            rows = layer(rows, layout.sequences)
        return rows

    def _asked_rows(self, distinct: Tensor, layout: PairRows, asked: np.ndarray) -> Tensor:
        """Return the rows `asked` [M] of the last layer's, [M,D], given the `distinct` embeddings [U,D]."""
        first, plan = self.layers[0], plan_rows(layout.sequences, asked, self.layers[0].num_heads)
        origin = layout.origin[plan.origin]
        if self.training and self.dropout:
            rows, origin = distinct.gather(paddle.to_tensor(origin)), None
            distinct = functional.dropout(rows, self.dropout)
        products = [part.without_bias(distinct) for part in (first.query, first.key_value)]
        return asked_rows(self.layers, distinct, *products, origin, plan)

    def _embed(self, batch: dict[str, Tensor], layout: PairRows) -> Tensor:
        """Return the embeddings [U,D] of the distinct tokens, followed by those of the images' regions."""
        longest = batch["text_len"].max().item()
        if longest > self.max_positions:
            raise ValueError(
                f"text_len: expected at most {self.max_positions} tokens, the positions of this BERT, got "
                f"{longest}"
            )
        tokens = (layout.words, layout.positions, layout.segments)
        vectors = self.embeddings(*map(paddle.to_tensor, tokens))
        if self.regions is None:
            return vectors
        regions = batch["regions"].reshape([-1, batch["regions"].shape[2]])
        if len(layout.regions) < regions.shape[0]:
            regions = regions.gather(paddle.to_tensor(layout.regions))
        return paddle.concat([vectors, self.regions(regions)])
