"""Sequences of different lengths without padding: their rows stand one after another.

What works on each row alone, as most of a transformer does, then never sees padding. Attention does its work
sequence by sequence on the CPU, and on padded batches elsewhere, where Paddle has fused kernels.
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
from models.layers.fused import BlockSums, dropout_seed, kept_by_dropout, unless_frozen
from models.layers.short_attention import ShortAttention

SHORT = 4096  # numbers of a head's keys in a sequence, below which sequences are quicker together than alone
BARRED = -10000.0  # added to a score that is not to count; its exponential is 0 in float32


@dataclass(frozen=True)
class Sequences:
    """Where B sequences stand among P rows, and what may attend to what in them.

    `length` [B] counts each one's rows. With `kinds` [P] and `attends` (bool [K,K]), a row of kind i sees
    those of the kinds j with `attends[i, j]`; without them every row sees all of its sequence.
    """

    length: np.ndarray
    kinds: np.ndarray | None = None
    attends: np.ndarray | None = None

    @cached_property
    def ends(self) -> np.ndarray:
        """Return [B+1]: sequence b has the rows from `ends[b]` to `ends[b + 1]`."""
        return np.concatenate([[0], np.cumsum(self.length)])

    @cached_property
    def first(self) -> Tensor:
        """Return the number [B] of each sequence's first row."""
        return paddle.to_tensor(self.ends[:-1])

    def part(self, numbers: slice) -> "Sequences":
        """Return some sequences that follow one another, as if they stood alone."""
        rows = slice(self.ends[numbers.start], self.ends[numbers.stop])
        kinds = None if self.kinds is None else self.kinds[rows]
        return Sequences(self.length[numbers], kinds, self.attends)

    @cached_property
    def places(self) -> Tensor:
        """Return the places [P] of the rows among those of a padded batch, B x L."""
        return paddle.to_tensor(real_places(self.length, self.length.max()))

    def pad(self, rows: Tensor) -> Tensor:
        """Return `rows` [P,D] as [B,L,D], zero behind a sequence's end."""
        width = int(self.length.max())
        padded = paddle.zeros([len(self.length) * width, rows.shape[1]], rows.dtype)
        return padded.scatter(self.places, rows).reshape([-1, width, rows.shape[1]])

    def pack(self, padded: Tensor) -> Tensor:
        """Return the rows [P,D] of `padded` [B,L,D]."""
        return padded.reshape([-1, padded.shape[2]]).gather(self.places)

    def barred(self, number: int, asked: int) -> np.ndarray | None:
        """Return what to add to the scores of a sequence's first `asked` rows, [asked,L]; None: nothing."""
        if self.attends is None:
            return None
        kinds = self.kinds[self.ends[number] : self.ends[number + 1]]
        return np.where(self.attends[kinds[:asked, None], kinds], 0, BARRED).astype(np.float32)

    def mask(self, asked: int) -> Tensor:
        """Return what to add to the scores of the first `asked` rows in a padded batch, [B,1,asked,L]."""
        width = self.length.max()
        real = np.arange(width) < self.length[:, None]
        mask = np.repeat(np.where(real, 0, BARRED).astype(np.float32)[:, None], asked, axis=1)
        if self.attends is not None:
            for number, length in enumerate(self.length):
                mask[number, :length, :length] += self.barred(number, min(asked, length))
        return paddle.to_tensor(mask[:, None])


def real_places(length: np.ndarray, width: int) -> np.ndarray:
    """Return the places, among the B x `width` of a padded batch, of the first `length` [B] of each row."""
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

    `key_value` [P,2D] are the keys and values of all rows. `query` are those of all rows, [P,D], or of each
    sequence's first row, [B,D]; the result has its shape. The biases [D] and [2D] are added to them.
    `dropout` is the share of the softmax's values to drop.
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
    """Return the same, biases added before, by Paddle's attention on a padded batch: fused on a GPU."""
    batch, dim = len(sequences.length), query.shape[1]
    of_first = query.shape[0] == batch
    asked = query.unsqueeze(1) if of_first else sequences.pad(query)  # [B,A,D]
    asked = asked.reshape([batch, -1, heads, dim // heads])
    keys, values = sequences.pad(key_value).reshape([batch, -1, 2, heads, dim // heads]).unbind(2)
    mask = sequences.mask(asked.shape[1]).astype(query.dtype)
    context = functional.scaled_dot_product_attention(asked, keys, values, attn_mask=mask, dropout_p=dropout)
    context = context.reshape([batch, -1, dim])
    return context.squeeze(1) if of_first else sequences.pack(context)


class _Attention(PyLayer):
    """The same on the CPU, sequence by sequence: no padding, no transposed copies, scores in the cache.

    A bias of the keys adds the same to all scores of a row, which softmax takes away again: it is left out,
    and its gradient is 0.
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
                asked, rows = _rows(sequences, number, query)
                keys, values = _by_head(key_value[rows], 2, heads)
                asking = _by_head((query[asked] + query_bias) * scale, 1, heads)[0]
                share = multiply_each(keys, asking.transpose(0, 2, 1))  # [H,L,A]
                barred = sequences.barred(number, share.shape[2])
                if barred is not None:
                    share += barred.T
                share -= share.max(axis=1, keepdims=True)
                np.exp(share, out=share)
                share /= share.sum(axis=1, keepdims=True)
                kept = kept_by_dropout(share.shape, dropout, seed + number) if dropout else None
                if keeps:
                    saved[number] = share, kept
                if dropout:
                    share = share * kept * np.float32(1 / (1 - dropout))
                answers = _by_head(context[asked], 1, heads)[0]
                multiply_each(share.transpose(0, 2, 1), values + value_bias, out=answers)

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
                asked, rows = _rows(sequences, number, query)
                keys, values = _by_head(key_value[rows], 2, heads)
                asking = _by_head((query[asked] + query_bias) * scale, 1, heads)[0]
                d_asking = _by_head(d_query[asked], 1, heads)[0]
                d_keys, d_values = _by_head(d_key_value[rows], 2, heads)
                d_out = _by_head(d_context[asked], 1, heads)[0]
                share, kept = saved[number]
                used = share
                d_share = multiply_each(values + value_bias, d_out.transpose(0, 2, 1))  # [H,L,A]
                if dropout:
                    factor = kept * np.float32(1 / (1 - dropout))
                    used = share * factor
                    d_share *= factor
                multiply_each(used, d_out, out=d_values)
                d_share -= np.einsum("hla,hla->ha", share, d_share)[:, None]
                d_share *= share
                multiply_each(d_share.transpose(0, 2, 1), keys, out=d_asking)
                d_asking *= scale
                multiply_each(d_share, asking, out=d_keys)
                sums.add(number, d_query[asked].sum(axis=0), d_key_value[rows].sum(axis=0))

        for_each_block(work, len(sequences.length), _bytes_of(sequences, heads))
        d_query_bias, d_key_value_bias = sums.totals()
        d_key_value_bias[: query.shape[1]] = 0  # but for rounding
        return unless_frozen(ctx.frozen, d_query, d_key_value, d_query_bias, d_key_value_bias)


def _rows(sequences: Sequences, number: int, query: np.ndarray) -> tuple[slice, slice]:
    """Return where a sequence's queries are, and its keys and values."""
    rows = slice(sequences.ends[number], sequences.ends[number + 1])
    return (rows if len(query) == sequences.ends[-1] else slice(number, number + 1)), rows


def _by_head(rows: np.ndarray, parts: int, heads: int) -> np.ndarray:
    """Return a view [parts,H,L,d] of `rows` [L,parts*H*d]."""
    return rows.reshape(len(rows), parts, heads, -1).transpose(1, 2, 0, 3)


def _bytes_of(sequences: Sequences, heads: int) -> int:
    """Return the size of a sequence's scores, on average."""
    return int(np.mean(sequences.length.astype(np.int64) ** 2)) * heads * 4
