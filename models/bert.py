"""BERT over text and image regions (Devlin et al. 2019, arXiv 1810.04805; Oscar, arXiv 2004.06165)."""

from dataclasses import dataclass

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.nn import functional

from models.kernels.row_blocks import uses_cpu_kernels
from models.layers.bert_inference import first_rows
from models.layers.fused import Linear, ResidualNorm, gelu
from models.layers.pair_rows import PairRows, pair_rows
from models.layers.sequences import Sequences, attend


@dataclass(frozen=True)
class BertShape:
    """The sizes of a BERT; the defaults are BERT-base's.

    `region_dim` is the width of an image region, 0 for text alone; `region_norm` normalises what
    becomes of it. `position_waves`: the vectors of positions start as waves, and not at random.
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
    """Return the initialisation of BERT's matrices: normal, with that standard deviation."""
    return paddle.ParamAttr(initializer=nn.initializer.Normal(0.0, deviation))


def linear(in_dim: int, out_dim: int, deviation: float) -> Linear:
    """Return a linear layer with BERT's initialisation: normal weights, and a bias of zeros."""
    zero = paddle.ParamAttr(initializer=nn.initializer.Constant(0.0))
    return Linear(in_dim, out_dim, weight_attr=initialised(deviation), bias_attr=zero)


def waves(count: int, dim: int) -> np.ndarray:
    """Return sines and cosines of the positions, [count,dim] of variance 1 (Vaswani et al. 2017, 3.5).

    Near positions are alike, which lets a layer find a word's neighbours long before it has learnt them from
    random vectors. The waves' lengths rise from 2 pi to 2 pi `count` positions.
    """
    pairs = -(-dim // 2)
    angles = np.arange(count)[:, None] * float(count) ** -(np.arange(pairs) / pairs)
    values = np.stack([np.sin(angles), np.cos(angles)], axis=2).reshape(count, -1)[:, :dim]
    return (values * np.sqrt(2)).astype(np.float32)


class TextEmbedding(nn.Layer):
    """The sum of a token's word, position and segment vectors, normalised."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        dim, attr = shape.hidden_dim, initialised(shape.initial_deviation)
        self.words = nn.Embedding(shape.vocab_size, dim, weight_attr=attr)
        self.positions = nn.Embedding(shape.max_positions, dim, weight_attr=attr)
        if shape.position_waves:
            self.positions.weight.set_value(waves(shape.max_positions, dim) * shape.initial_deviation)
        self.segments = nn.Embedding(shape.num_segments, dim, weight_attr=attr)
        self.norm = nn.LayerNorm(dim, shape.norm_epsilon)

    def forward(self, words: Tensor, positions: Tensor, segments: Tensor) -> Tensor:
        """Return [T,D] of three times [T]."""
        return self.norm(self.words(words) + self.positions(positions) + self.segments(segments))


class RegionEmbedding(nn.Layer):
    """A linear map of a region's features, normalised; regions have no positions or segments."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.fc = linear(shape.region_dim, shape.hidden_dim, shape.initial_deviation)
        self.norm = (
            nn.LayerNorm(shape.hidden_dim, shape.region_norm_epsilon) if shape.region_norm else nn.Identity()
        )

    def forward(self, regions: Tensor) -> Tensor:
        """Return [R,D] of `regions` [R,F]."""
        return self.norm(self.fc(regions))


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
        query, key_value = self.query.without_bias(rows), self.key_value.without_bias(rows)
        return self._step(rows, query, key_value, sequences)

    def forward_distinct(self, distinct: Tensor, origin: Tensor, sequences: Sequences) -> Tensor:
        """Return the new rows [P,D], whose old ones are `distinct` [D',D] in this `origin` [P]."""
        query, key_value = self.query.without_bias(distinct), self.key_value.without_bias(distinct)
        return self._step(*(rows.gather(origin) for rows in (distinct, query, key_value)), sequences)

    def first_rows(self, rows: Tensor, sequences: Sequences) -> Tensor:
        """Return the new first row of each sequence alone, [B,D]."""
        first = rows.gather(sequences.first)
        query, key_value = self.query.without_bias(first), self.key_value.without_bias(rows)
        return self._step(first, query, key_value, sequences)

    def _step(self, old: Tensor, query: Tensor, key_value: Tensor, sequences: Sequences) -> Tensor:
        dropout = self.attention_dropout if self.training else 0.0
        biases = self.query.bias, self.key_value.bias
        context = attend(query, key_value, *biases, sequences, self.num_heads, dropout)
        attended = self.attended_norm(self.attended.without_bias(context), self.attended.bias, old)
        inner = gelu(self.widen.without_bias(attended), self.widen.bias)
        return self.norm(self.narrow.without_bias(inner), self.narrow.bias, attended)


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
        self.dropout = shape.dropout
        self.pooler = linear(shape.hidden_dim, shape.hidden_dim, shape.initial_deviation)

    def forward(self, batch: dict[str, Tensor], attends: np.ndarray | None = None) -> Tensor:
        """Return the pooled first rows [B,D] of a batch, tanh(W h + b); see `encode` for the arguments.

        The last layer computes no other rows, and gives them no gradient to pass on.
        """
        layout = pair_rows(batch, self.regions is not None, attends)
        distinct = self._embed(batch, layout)
        if uses_cpu_kernels(distinct) and not (self.training or paddle.is_grad_enabled()):
            return self.pool(
                paddle.to_tensor(first_rows(self.layers, distinct, layout.origin, layout.sequences))
            )
        rows = self._rows_before_last(distinct, layout)
        return self.pool(self.layers[-1].first_rows(rows, layout.sequences))

    def encode(self, batch: dict[str, Tensor], attends: np.ndarray | None = None) -> tuple[Tensor, Sequences]:
        """Return the last layer's rows [P,D], each pair's text before its regions, and where they stand.

        `batch` has `token_ids` and `segment_ids` [B,T] with `text_len` [B] and, for a model with regions,
        `regions` [I,R,F] with `num_regions` [I] of images. Pair b has image `image_row[b]` (`image_row` [B]);
        without it, image b. `attends` (bool [3,3]) says which of segment 0, segment 1 and the regions attends
        (rows) to which (columns); None: all to all. Raises ValueError when a text is longer than there are
        positions.
        """
        layout = pair_rows(batch, self.regions is not None, attends)
        rows = self._rows_before_last(self._embed(batch, layout), layout)
        return self.layers[-1](rows, layout.sequences), layout.sequences

    def encode_parts(
        self,
        batch: dict[str, Tensor],
        count: int,
        pairs: Tensor,
        places: Tensor,
        attends: np.ndarray | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the pooled first rows [count,D] of the first pairs, and single rows [M,D] of the others.

        The M rows are those at `places` [M] of the `pairs` [M], all behind the first `count`. The last layer
        computes no other rows of the first pairs.
        """
        layout = pair_rows(batch, self.regions is not None, attends)
        sequences, last = layout.sequences, self.layers[-1]
        rows = self._rows_before_last(self._embed(batch, layout), layout)
        start = int(sequences.ends[count])
        firsts = last.first_rows(rows[:start], sequences.part(slice(0, count)))
        others = sequences.part(slice(count, len(sequences.length)))
        wanted = others.first.gather(pairs - count) + places
        return self.pool(firsts), last(rows[start:], others).gather(wanted)

    def pool(self, first: Tensor) -> Tensor:
        """Return tanh(W h + b) [B,D] of the `first` row h of each sequence [B,D]."""
        return paddle.tanh(self.pooler(first))

    def _rows_before_last(self, distinct: Tensor, layout: PairRows) -> Tensor:
        """Return the rows [P,D] that the last layer takes, of the `distinct` ones that they begin as.

        As long as no dropout sets apart what begins alike, the first layer maps it once.
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

    def _embed(self, batch: dict[str, Tensor], layout: PairRows) -> Tensor:
        """Return the vectors of the distinct tokens, then of the images' regions."""
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
