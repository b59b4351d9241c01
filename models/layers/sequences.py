"""Packed sequences: the rows of sequences of different lengths one after another, without padding.

Layers that work on each row alone, as most of a transformer's do, then compute no padding. Attention runs
sequence by sequence on the CPU, and on padded batches on a GPU, where Paddle has fused kernels.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import paddle
from paddle import Tensor
from paddle.autograd import PyLayer
from paddle.nn import functional

from models.kernels.mkl import multiply_each
from models.kernels.row_blocks import array_of, for_each_block, uses_cpu_kernels
from models.layers.fused import BlockSums, dropout_mask, dropout_seed, unless_frozen
from models.layers.short_attention import ShortAttention

# Sequences with fewer numbers than this in the keys of a head (length x head width) are computed in groups,
# since they are too small to be fast one by one.
SHORT = 4096
MASKED = -10000.0  # added to the score of a masked key, so that its exponential is 0 in float32


@dataclass(frozen=True)
class Sequences:
    """The layout of B packed sequences in P rows, and which rows attend to which.

    `length` [B] is the number of rows of each sequence. `kinds` [P] is the kind of each row, and a row of
    kind i attends to the rows of kind j if `attends[i, j]` (bool [K,K]). Without `attends`, every row attends
    to all rows of its sequence.
    """

    length: np.ndarray
    kinds: np.ndarray | None = None
    attends: np.ndarray | None = None

    @cached_property
    def ends(self) -> np.ndarray:
        """The bounds [B+1] of the sequences: sequence b has the rows `ends[b]` to `ends[b + 1]`."""
        return np.concatenate([[0], np.cumsum(self.length)])

    @cached_property
    def first(self) -> Tensor:
        """The index [B] of each sequence's first row."""
        return paddle.to_tensor(self.ends[:-1])

    def part(self, numbers: slice) -> "Sequences":
        """Return the layout of the sequences `numbers` alone."""
        rows = slice(self.ends[numbers.start], self.ends[numbers.stop])
        kinds = None if self.kinds is None else self.kinds[rows]
        return Sequences(self.length[numbers], kinds, self.attends)

    @cached_property
    def places(self) -> Tensor:
        """The indices [P] of the rows among the B x L of a padded batch."""
        return paddle.to_tensor(real_places(self.length, self.length.max()))

    def pad(self, rows: Tensor) -> Tensor:
        """Return `rows` [P,D] as a padded batch [B,L,D], zero behind each sequence's end."""
        width = int(self.length.max())
        padded = paddle.zeros([len(self.length) * width, rows.shape[1]], rows.dtype)
        return padded.scatter(self.places, rows).reshape([-1, width, rows.shape[1]])

    def pack(self, padded: Tensor) -> Tensor:
        """Return the rows [P,D] of a padded batch [B,L,D]."""
        return padded.reshape([-1, padded.shape[2]]).gather(self.places)

    def mask_of(self, number: int, num_queries: int) -> np.ndarray | None:
        """Return the additive mask [A,L] of the first A = `num_queries` rows of sequence `number`.

        It is None if every row attends to all.
        """
        if self.attends is None:
            return None
        kinds = self.kinds[self.ends[number] : self.ends[number + 1]]
        return np.where(self.attends[kinds[:num_queries, None], kinds], 0, MASKED).astype(np.float32)

    def padded_mask(self, num_queries: int) -> Tensor:
        """Return the additive mask [B,1,A,L] of the first A = `num_queries` rows of a padded batch."""
        width = self.length.max()
        real = np.arange(width) < self.length[:, None]
        mask = np.repeat(np.where(real, 0, MASKED).astype(np.float32)[:, None], num_queries, axis=1)
        if self.attends is not None:
            for number, length in enumerate(self.length):
                mask[number, :length, :length] += self.mask_of(number, min(num_queries, length))
        return paddle.to_tensor(mask[:, None])


def real_places(length: np.ndarray, width: int) -> np.ndarray:
    """Return the indices, among the B x `width` of a padded batch, of the first `length[b]` of each row b."""
    return np.flatnonzero(np.arange(width) < length[:, None])


def attend(
    query: Tensor,
    key_value: Tensor,
    query_bias: Tensor,
    key_value_bias: Tensor,
    sequences: Sequences,
    heads: int,
    dropout: float,
) -> Tensor:
    """Return multi-head attention softmax(Q K^T / sqrt(d) + mask) V (Vaswani et al. 2017, eq. 1).

    `key_value` [P,2D] are the keys and values of all rows. `query` are the queries of all rows, [P,D], or of
    each sequence's first row, [B,D]; the result has the shape of `query`. The biases [D] and [2D] are added
    to queries, and to keys and values. `dropout` is the share of the softmax's weights that is dropped.
    """
    if uses_cpu_kernels(query):
        biases = query_bias, key_value_bias
        keeps = paddle.is_grad_enabled()
        is_short = sequences.length.mean() * (query.shape[1] // heads) < SHORT
        layer = ShortAttention if is_short else _Attention
        return layer.apply(query, key_value, *biases, sequences, heads, dropout, keeps)
    return attend_padded(query + query_bias, key_value + key_value_bias, sequences, heads, dropout)


def attend_padded(
    query: Tensor, key_value: Tensor, sequences: Sequences, heads: int, dropout: float
) -> Tensor:
    """Return what `attend` does, for inputs with their biases, by Paddle's attention on a padded batch."""
    batch, dim = len(sequences.length), query.shape[1]
    of_first = query.shape[0] == batch
    queries = query.unsqueeze(1) if of_first else sequences.pad(query)  # [B,A,D]
    queries = queries.reshape([batch, -1, heads, dim // heads])
    keys, values = sequences.pad(key_value).reshape([batch, -1, 2, heads, dim // heads]).unbind(2)
    mask = sequences.padded_mask(queries.shape[1]).astype(query.dtype)
    context = functional.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, dropout_p=dropout
    )
    context = context.reshape([batch, -1, dim])
    return context.squeeze(1) if of_first else sequences.pack(context)


class _Attention(PyLayer):
    """`attend` on the CPU, sequence by sequence: no padding, no transposed copies, scores in the cache.

    A bias of the keys adds the same number to all scores of a query, and softmax does not depend on such a
    number. So the bias of the keys is left out, and its gradient is 0.
    """

    @staticmethod
    def forward(ctx, query, key_value, query_bias, key_value_bias, sequences, heads, dropout, keeps):
        inputs = query, key_value, query_bias, key_value_bias
        ctx.frozen = tuple(tensor.stop_gradient for tensor in inputs)
        query, key_value, query_bias, key_value_bias = map(array_of, inputs)
        context, saved = np.empty_like(query), {}
        seed = dropout_seed() if dropout else 0
        scale = np.float32(1 / math.sqrt(query.shape[1] // heads))
        value_bias = key_value_bias[query.shape[1] :].reshape(heads, 1, -1)

        def work(numbers: slice) -> None:
            for number in range(numbers.start, numbers.stop):
                query_rows, rows = _rows(sequences, number, query)
                keys, values = _by_head(key_value[rows], 2, heads)
                queries = _by_head((query[query_rows] + query_bias) * scale, 1, heads)[0]
                attention = multiply_each(keys, queries.transpose(0, 2, 1))  # [H,L,A]
                mask = sequences.mask_of(number, attention.shape[2])
                if mask is not None:
                    attention += mask.T
                attention -= attention.max(axis=1, keepdims=True)
                np.exp(attention, out=attention)
                attention /= attention.sum(axis=1, keepdims=True)
                kept = dropout_mask(attention.shape, dropout, seed + number) if dropout else None
                if keeps:
                    saved[number] = attention, kept
                if dropout:
                    attention = attention * kept * np.float32(1 / (1 - dropout))
                answers = _by_head(context[query_rows], 1, heads)[0]
                multiply_each(attention.transpose(0, 2, 1), values + value_bias, out=answers)

        for_each_block(work, len(sequences.length), _bytes_of(sequences, heads))
        ctx.saved = query, key_value, query_bias, value_bias, saved
        ctx.settings = sequences, heads, dropout, scale
        return paddle.from_dlpack(context)

    @staticmethod
    def backward(ctx, d_context):
        query, key_value, query_bias, value_bias, saved = ctx.saved
        sequences, heads, dropout, scale = ctx.settings
        d_context = array_of(d_context)
        d_query, d_key_value = np.empty_like(query), np.empty_like(key_value)
        sums = BlockSums()

        def work(numbers: slice) -> None:
            for number in range(numbers.start, numbers.stop):
                query_rows, rows = _rows(sequences, number, query)
                keys, values = _by_head(key_value[rows], 2, heads)
                queries = _by_head((query[query_rows] + query_bias) * scale, 1, heads)[0]
                d_queries = _by_head(d_query[query_rows], 1, heads)[0]
                d_keys, d_values = _by_head(d_key_value[rows], 2, heads)
                d_out = _by_head(d_context[query_rows], 1, heads)[0]
                attention, kept = saved[number]
                used = attention
                d_attention = multiply_each(values + value_bias, d_out.transpose(0, 2, 1))  # [H,L,A]
                if dropout:
                    factor = kept * np.float32(1 / (1 - dropout))
                    used = attention * factor
                    d_attention *= factor
                multiply_each(used, d_out, out=d_values)
                d_attention -= np.einsum("hla,hla->ha", attention, d_attention)[:, None]
                d_attention *= attention
                multiply_each(d_attention.transpose(0, 2, 1), keys, out=d_queries)
                d_queries *= scale
                multiply_each(d_attention, queries, out=d_keys)
                sums.add(number, d_query[query_rows].sum(axis=0), d_key_value[rows].sum(axis=0))

        for_each_block(work, len(sequences.length), _bytes_of(sequences, heads))
        d_query_bias, d_key_value_bias = sums.totals()
        d_key_value_bias[: query.shape[1]] = 0  # exactly, without the rounding of the sum
        return unless_frozen(ctx.frozen, d_query, d_key_value, d_query_bias, d_key_value_bias)


def _rows(sequences: Sequences, number: int, query: np.ndarray) -> tuple[slice, slice]:
    """Return the rows of a sequence's queries, and those of its keys and values."""
    rows = slice(sequences.ends[number], sequences.ends[number + 1])
    return (rows if len(query) == sequences.ends[-1] else slice(number, number + 1)), rows


def _by_head(rows: np.ndarray, parts: int, heads: int) -> np.ndarray:
    """Return a view [parts,H,L,d] of `rows` [L,parts*H*d]."""
    return rows.reshape(len(rows), parts, heads, -1).transpose(1, 2, 0, 3)


def _bytes_of(sequences: Sequences, heads: int) -> int:
    """Return the mean size, in bytes, of a sequence's attention scores."""
    return int(np.mean(sequences.length.astype(np.int64) ** 2)) * heads * 4
