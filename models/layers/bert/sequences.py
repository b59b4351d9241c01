"""Packed sequences: the rows of sequences of different lengths one after another, without padding.

Layers that work on each row alone, as most of a transformer's do, then compute no padding. Attention runs by
`run_attention` (in this room) on the CPU, and on padded batches on a GPU, where Paddle has fused kernels.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import paddle
from paddle import Tensor
from paddle.nn import functional

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


def attend_padded(
    query: Tensor, key_value: Tensor, sequences: Sequences, heads: int, dropout: float
) -> Tensor:
    """Return multi-head attention softmax(Q K^T / sqrt(d) + mask) V (Vaswani et al. 2017, eq. 1).

    `key_value` [P,2D] are the keys and values of all rows. `query` are the queries of all rows, [P,D], or of
    each sequence's first row, [B,D]; the result has the shape of `query`. `dropout` is the share of the
    softmax's weights that is dropped. Paddle's attention works on a padded batch.
    """
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
