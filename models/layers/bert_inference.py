"""BERT's layers on the CPU where no gradient is asked for: a thread takes its sequences through all of them.

No thread waits for another between two operations, as it does where each operation is shared among all, and
what a thread works on is small.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from paddle import Tensor, nn

from models.kernels.mkl import multiply_each, multiply_on_one_thread
from models.kernels.row_blocks import array_of, for_each_block, row_blocks
from models.layers.fused import activate, standardise
from models.layers.sequences import Sequences

ROWS_TOGETHER = 512  # that a thread takes at once: enough for the full speed of a product
ALONE = 1 << 20  # bytes that are a block by themselves


@dataclass(frozen=True)
class LayerArrays:
    """A layer's weights, in the memory of its tensors: weight and bias of each part."""

    query: tuple[np.ndarray, np.ndarray]
    key_value: tuple[np.ndarray, np.ndarray]
    attended: tuple[np.ndarray, np.ndarray]
    attended_norm: tuple[np.ndarray, np.ndarray]
    widen: tuple[np.ndarray, np.ndarray]
    narrow: tuple[np.ndarray, np.ndarray]
    norm: tuple[np.ndarray, np.ndarray]
    heads: int
    epsilon: float

    def step(
        self, old: np.ndarray, query: np.ndarray, key_value: np.ndarray, sequences: Sequences
    ) -> np.ndarray:
        """Return the new rows of `old` ones, with their queries, and the keys and values of all rows."""
        biases = self.query[1], self.key_value[1]
        context = _attend(query, key_value, biases, sequences, self.heads)
        attended = multiply_on_one_thread(context, self.attended[0])
        self._normalise(attended, self.attended[1], old, self.attended_norm)
        inner = multiply_on_one_thread(attended, self.widen[0])
        for block in row_blocks(len(inner), 2 * inner[:1].nbytes):
            activate(inner[block], self.widen[1], inner[block])
        new = multiply_on_one_thread(inner, self.narrow[0])
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
    return LayerArrays(*weights, layer.num_heads, layer.norm.epsilon)


def first_rows(
    layers: Sequence[nn.Layer], different: Tensor, order: np.ndarray, sequences: Sequences
) -> np.ndarray:
    """Return the first row of each sequence after all `layers`, [B,D].

    The rows begin as `different` [D',D] in this `order` [P]; the first layer maps each of them once.
    """
    query, key_value = (
        array_of(part.without_bias(different)) for part in (layers[0].query, layers[0].key_value)
    )
    arrays, different = [layer_arrays(layer) for layer in layers], array_of(different)
    found = np.empty((len(sequences.length), different.shape[1]), different.dtype)
    groups = _groups(sequences.ends)

    def work(numbers: slice) -> None:
        for group in groups[numbers]:
            part = sequences.part(group)
            rows = order[sequences.ends[group.start] : sequences.ends[group.stop]]
            x, asks, holds = different[rows], query[rows], key_value[rows]
            for number, layer in enumerate(arrays):
                if number:
                    holds = multiply_on_one_thread(x, layer.key_value[0])
                if number == len(arrays) - 1:
                    x, asks = x[part.ends[:-1]], asks[part.ends[:-1]]
                if number:
                    asks = multiply_on_one_thread(x, layer.query[0])
                x = layer.step(x, asks, holds, part)
            found[group] = x

    for_each_block(work, len(groups), ALONE)
    return found


def _attend(
    query: np.ndarray,
    key_value: np.ndarray,
    biases: tuple[np.ndarray, np.ndarray],
    sequences: Sequences,
    heads: int,
) -> np.ndarray:
    """Return what `sequences.attend` does; sequences of one length that follow one another go together."""
    context, dim = np.empty_like(query), query.shape[1]
    of_first, scale = len(query) < sequences.ends[-1], np.float32(1 / math.sqrt(dim // heads))
    for run in _runs(sequences.length, heads):
        count, rows = run.stop - run.start, slice(sequences.ends[run.start], sequences.ends[run.stop])
        asked = run if of_first else rows
        keys, values = _by_head(key_value[rows], count, 2, heads)  # [n,H,L,d]
        asking = _by_head((query[asked] + biases[0]) * scale, count, 1, heads)[0]  # [n,H,A,d]
        share = multiply_each(keys, asking.swapaxes(2, 3))  # [n,H,L,A]
        if sequences.attends is not None:
            barred = [sequences.barred(number, asking.shape[2]).T for number in range(run.start, run.stop)]
            share += np.stack(barred)[:, None]
        share -= share.max(axis=2, keepdims=True)
        np.exp(share, out=share)
        share /= share.sum(axis=2, keepdims=True)
        multiply_each(share.swapaxes(2, 3), values, out=_by_head(context[asked], count, 1, heads)[0])
    context += biases[1][dim:]  # the keys' bias changes no softmax, whose shares add up to 1
    return context


def _runs(length: np.ndarray, heads: int) -> list[slice]:
    """Cut sequences into runs of one length, whose scores stay in the cache."""
    starts, runs = [0, *(np.flatnonzero(np.diff(length)) + 1).tolist(), len(length)], []
    for start, stop in zip(starts[:-1], starts[1:], strict=True):
        blocks = row_blocks(stop - start, 4 * heads * int(length[start]) ** 2)
        runs += [slice(start + block.start, start + block.stop) for block in blocks]
    return [run for run in runs if run.start < run.stop]


def _by_head(rows: np.ndarray, count: int, parts: int, heads: int) -> np.ndarray:
    """Return a view [parts,n,H,L,d] of the rows [n*L,parts*H*d] of `count` sequences."""
    return rows.reshape(count, len(rows) // count, parts, heads, -1).transpose(2, 0, 3, 1, 4)


def _groups(ends: np.ndarray) -> list[slice]:
    """Cut sequences that end at `ends[1:]` into groups of some ROWS_TOGETHER rows, as many a thread."""
    stops = [block.stop for block in row_blocks(int(ends[-1]), ALONE // ROWS_TOGETHER)]
    edges = np.unique([0, *np.searchsorted(ends, stops[:-1]), len(ends) - 1]).tolist()
    return [slice(*edge) for edge in zip(edges[:-1], edges[1:], strict=True)]
