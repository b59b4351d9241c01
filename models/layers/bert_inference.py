"""BERT's layers on the CPU without gradients: each thread takes its own sequences through all layers.

No thread waits for another between two operations, as it would if each operation were shared among threads,
and the rows that a thread works on are few enough for the cache.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from paddle import Tensor, nn

from models.kernels.mkl import multiply_each
from models.kernels.precision import is_lowered
from models.kernels.products import PackedMatrices, multiply_on_one_thread
from models.kernels.row_blocks import array_of, for_each_block, row_blocks
from models.layers.fused import standardise, write_gelu
from models.layers.sequences import SHORT, Sequences
from models.layers.short_attention import keys_first

ROWS_TOGETHER = 512  # rows that a thread takes at once: enough for the full speed of a matrix product
_BLOCK_BYTES = 1 << 20  # an item of this size is a block of its own in `row_blocks`


Weight = np.ndarray | PackedMatrices  # [I,O], or that matrix packed in bfloat16


@dataclass(frozen=True)
class LayerArrays:
    """The weight and bias of each part of a `BertLayer`, as arrays that share the memory of its tensors.

    Where layers multiply in bfloat16, the weights are packed.
    """

    query: tuple[Weight, np.ndarray]
    key_value: tuple[Weight, np.ndarray]
    attended: tuple[Weight, np.ndarray]
    attended_norm: tuple[np.ndarray, np.ndarray]
    widen: tuple[Weight, np.ndarray]
    narrow: tuple[Weight, np.ndarray]
    norm: tuple[np.ndarray, np.ndarray]
    heads: int
    epsilon: float

    def step(
        self, old: np.ndarray, query: np.ndarray, key_value: np.ndarray, sequences: Sequences
    ) -> np.ndarray:
        """Return the rows of this layer that follow `old` [N,D], as `BertLayer._step` does.

        `query` [N,D] are the queries of the N rows, `key_value` [P,2D] the keys and values of all rows; the
        biases of both are added here.
        """
        biases = self.query[1], self.key_value[1]
        context = _attend(query, key_value, biases, sequences, self.heads)
        attended = _product(context, self.attended[0])
        self._normalise(attended, self.attended[1], old, self.attended_norm)
        inner = _product(attended, self.widen[0])
        for block in row_blocks(len(inner), 2 * inner[:1].nbytes):
            write_gelu(inner[block], self.widen[1], inner[block])
        new = _product(inner, self.narrow[0])
        self._normalise(new, self.narrow[1], attended, self.norm)
        return new

    def _normalise(
        self, rows: np.ndarray, bias: np.ndarray, residual: np.ndarray, norm: tuple[np.ndarray, np.ndarray]
    ) -> None:
        for block in row_blocks(len(rows), 2 * rows[:1].nbytes):
            x = rows[block]
            x += bias
            x += residual[block]
            standardise(x, self.epsilon)
            x *= norm[0]
            x += norm[1]


def layer_arrays(layer: nn.Layer) -> LayerArrays:
    """Return the weights of a `BertLayer`."""
    parts = (
        *(layer.query, layer.key_value, layer.attended, layer.attended_norm),
        *(layer.widen, layer.narrow, layer.norm),
    )
    weights = [(array_of(part.weight), array_of(part.bias)) for part in parts]
    if is_lowered():
        packed = [
            PackedMatrices(weight[None], bfloat16=True) if weight.ndim == 2 else weight
            for weight, _ in weights
        ]
        weights = [(weight, bias) for weight, (_, bias) in zip(packed, weights, strict=True)]
    return LayerArrays(*weights, layer.num_heads, layer.norm.epsilon)


def _product(rows: np.ndarray, weight: Weight) -> np.ndarray:
    """Return `rows` [N,I] times a weight of `LayerArrays`, [N,O], on the calling thread."""
    if isinstance(weight, PackedMatrices):
        return weight.multiply_on_one_thread(rows)[0]
    return multiply_on_one_thread(rows, weight)


def first_rows(
    layers: Sequence[nn.Layer], distinct: Tensor, origin: np.ndarray, sequences: Sequences
) -> np.ndarray:
    """Return the first row of each sequence after all `layers`, [B,D].

    Row p starts as row `origin[p]` (`origin` [P]) of the `distinct` rows [U,D]. The first layer maps each
    distinct row to its query, key and value once.
    """
    first_query, first_key_value = (
        array_of(part.without_bias(distinct)) for part in (layers[0].query, layers[0].key_value)
    )
    arrays, distinct = [layer_arrays(layer) for layer in layers], array_of(distinct)
    found = np.empty((len(sequences.length), distinct.shape[1]), distinct.dtype)
    groups = _groups(sequences.ends)

    def work(numbers: slice) -> None:
        for group in groups[numbers]:
            part = sequences.part(group)
            rows = origin[sequences.ends[group.start] : sequences.ends[group.stop]]
            x, query, key_value = distinct[rows], first_query[rows], first_key_value[rows]
            for number, layer in enumerate(arrays):
                if number:
                    key_value = _product(x, layer.key_value[0])
                if number == len(arrays) - 1:
                    x, query = x[part.ends[:-1]], query[part.ends[:-1]]
                if number:
                    query = _product(x, layer.query[0])
                x = layer.step(x, query, key_value, part)
            found[group] = x

    for_each_block(work, len(groups), _BLOCK_BYTES)
    return found


def _attend(
    query: np.ndarray,
    key_value: np.ndarray,
    biases: tuple[np.ndarray, np.ndarray],
    sequences: Sequences,
    heads: int,
) -> np.ndarray:
    """Return what `sequences.attend` does; adjacent sequences of equal length are multiplied at once."""
    context, dim = np.empty_like(query), query.shape[1]
    of_first, scale = len(query) < sequences.ends[-1], np.float32(1 / math.sqrt(dim // heads))
    for run in _runs(sequences.length, heads):
        count, rows = run.stop - run.start, slice(sequences.ends[run.start], sequences.ends[run.stop])
        query_rows = run if of_first else rows
        keys, values = _by_head(key_value[rows], count, 2, heads)  # [n,H,L,d]
        queries = _by_head((query[query_rows] + biases[0]) * scale, count, 1, heads)[0]  # [n,H,A,d]
        multiply = np.matmul if keys[0, 0].size < SHORT else multiply_each
        attention = keys_first(keys, queries, multiply)  # [L,n,H,A]
        if sequences.attends is not None:
            mask = [sequences.mask_of(number, queries.shape[2]) for number in range(run.start, run.stop)]
            attention += np.stack(mask).transpose(2, 0, 1)[:, :, None]
        attention -= attention.max(axis=0)
        np.exp(attention, out=attention)
        attention /= attention.sum(axis=0)
        answers = _by_head(context[query_rows], count, 1, heads)[0]  # [n,H,A,d]
        multiply(attention.transpose(1, 2, 3, 0), values, out=answers)
    context += biases[1][dim:]  # the weights of a softmax sum to 1; the keys' bias does not change them
    return context


def _runs(length: np.ndarray, heads: int) -> list[slice]:
    """Return runs of adjacent sequences of equal length whose attention scores stay in the cache."""
    starts, runs = [0, *(np.flatnonzero(np.diff(length)) + 1).tolist(), len(length)], []
    for start, stop in zip(starts[:-1], starts[1:], strict=True):
        blocks = row_blocks(stop - start, 4 * heads * int(length[start]) ** 2)
        runs += [slice(start + block.start, start + block.stop) for block in blocks]
    return [run for run in runs if run.start < run.stop]


def _by_head(rows: np.ndarray, count: int, parts: int, heads: int) -> np.ndarray:
    """Return a view [parts,n,H,L,d] of the rows [n*L,parts*H*d] of `count` sequences."""
    return rows.reshape(count, len(rows) // count, parts, heads, -1).transpose(2, 0, 3, 1, 4)


def _groups(ends: np.ndarray) -> list[slice]:
    """Return groups of adjacent sequences of about ROWS_TOGETHER rows, equally many for every thread.

    Sequence b has the rows `ends[b]` to `ends[b + 1]`.
    """
    stops = [block.stop for block in row_blocks(int(ends[-1]), _BLOCK_BYTES // ROWS_TOGETHER)]
    edges = np.unique([0, *np.searchsorted(ends, stops[:-1]), len(ends) - 1]).tolist()
    return [slice(*edge) for edge in zip(edges[:-1], edges[1:], strict=True)]
