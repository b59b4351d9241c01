"""Attention on the CPU for short sequences: those of one length are multiplied in one call.

One by one, what surrounds a product of some hundred numbers takes several times as long as the product.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import paddle
from paddle.autograd import PyLayer

from models.kernels.row_blocks import array_of, for_each_block
from models.layers.fused import dropout_seed, kept_by_dropout, unless_frozen

_TOGETHER = 16  # sequences: their scores stay in the cache
_GROUP_BYTES = 1 << 18  # about what a group takes


@dataclass(frozen=True)
class _Group:
    """Sequences of one length L: `numbers` [n], their `rows` [n,L], and those that ask, [n,A]."""

    numbers: np.ndarray
    rows: np.ndarray
    asking: np.ndarray


def _groups(ends: np.ndarray, of_first: bool) -> list[_Group]:
    """Return the sequences between `ends` [B+1] by length; `of_first`: each one's first row asks alone."""
    length = np.diff(ends)
    order = np.argsort(length, kind="stable")
    by_length = np.split(order, np.flatnonzero(np.diff(length[order])) + 1)
    groups = []
    for numbers in by_length:
        for start in range(0, len(numbers), _TOGETHER):
            part = numbers[start : start + _TOGETHER]
            rows = ends[part, None] + np.arange(length[part[0]])
            groups.append(_Group(part, rows, part[:, None] if of_first else rows))
    return groups


def _heads(rows: np.ndarray, parts: int, heads: int) -> np.ndarray:
    """Return a view [parts,n,H,L,d] of `rows` [n,L,parts*H*d]."""
    return rows.reshape(*rows.shape[:2], parts, heads, -1).transpose(2, 0, 3, 1, 4)


def _rows(by_head: np.ndarray) -> np.ndarray:
    """Return [n,L,H*d] of [n,H,L,d]."""
    return by_head.transpose(0, 2, 1, 3).reshape(by_head.shape[0], by_head.shape[2], -1)


def _for_each(work: Callable[[_Group], None], groups: list[_Group]) -> None:
    """Call `work` on every group, on all threads."""

    def work_on(part: slice) -> None:
        for group in groups[part]:
            work(group)

    for_each_block(work_on, len(groups), _GROUP_BYTES)


class ShortAttention(PyLayer):
    """What `sequences.attend` does, for `sequences` that are short."""

    @staticmethod
    def forward(ctx, query, key_value, query_bias, key_value_bias, sequences, heads, dropout, keeps):
        inputs = query, key_value, query_bias, key_value_bias
        ctx.frozen = tuple(tensor.stop_gradient for tensor in inputs)
        query, key_value, query_bias, key_value_bias = map(array_of, inputs)
        groups = _groups(sequences.ends, of_first=len(query) < sequences.ends[-1])
        context, saved = np.empty_like(query), {}
        seed = dropout_seed() if dropout else 0
        scale = np.float32(1 / math.sqrt(query.shape[1] // heads))

        def work(group: _Group) -> None:
            asking = _heads((query[group.asking] + query_bias) * scale, 1, heads)[0]  # [n,H,A,d]
            keys, values = _heads(key_value[group.rows] + key_value_bias, 2, heads)  # [n,H,L,d]
            share = asking @ keys.swapaxes(2, 3)  # [n,H,A,L]
            if sequences.attends is not None:
                asked = group.asking.shape[1]
                share += np.stack([sequences.barred(number, asked) for number in group.numbers])[:, None]
            share -= share.max(axis=3, keepdims=True)
            np.exp(share, out=share)
            share /= share.sum(axis=3, keepdims=True)
            kept = kept_by_dropout(share.shape, dropout, seed + int(group.numbers[0])) if dropout else None
            if keeps:
                saved[group.numbers[0]] = share, kept
            if dropout:
                share = share * kept * np.float32(1 / (1 - dropout))
            context[group.asking] = _rows(share @ values)

        _for_each(work, groups)
        ctx.saved = query, key_value, query_bias, key_value_bias, groups, saved
        ctx.settings = heads, dropout, scale
        return paddle.from_dlpack(context)

    @staticmethod
    def backward(ctx, d_context):
        query, key_value, query_bias, key_value_bias, groups, saved = ctx.saved
        heads, dropout, scale = ctx.settings
        d_context = array_of(d_context)
        d_query, d_key_value = np.empty_like(query), np.empty_like(key_value)

        def work(group: _Group) -> None:
            asking = _heads((query[group.asking] + query_bias) * scale, 1, heads)[0]
            keys, values = _heads(key_value[group.rows] + key_value_bias, 2, heads)
            d_out = _heads(d_context[group.asking], 1, heads)[0]
            share, kept = saved[group.numbers[0]]
            used, d_score = share, d_out @ values.swapaxes(2, 3)  # [n,H,A,L]
            if dropout:
                factor = kept * np.float32(1 / (1 - dropout))
                used = share * factor
                d_score *= factor
            d_score -= (share * d_score).sum(axis=3, keepdims=True)
            d_score *= share
            d_query[group.asking] = _rows(d_score @ keys) * scale
            d_keys, d_values = d_score.swapaxes(2, 3) @ asking, used.swapaxes(2, 3) @ d_out
            d_key_value[group.rows] = np.concatenate([_rows(d_keys), _rows(d_values)], axis=2)

        _for_each(work, groups)
        d_biases = d_query.sum(axis=0), d_key_value.sum(axis=0)
        return unless_frozen(ctx.frozen, d_query, d_key_value, *d_biases)
