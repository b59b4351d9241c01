"""Attention on the CPU for short sequences: sequences of equal length are multiplied in one call.

A product of some hundred numbers takes a fraction of the time of the call around it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import paddle
from paddle.autograd import PyLayer

from models.kernels.row_blocks import array_of, for_each_block
from models.layers.fused import dropout_mask, dropout_seed, unless_frozen

_GROUP_SIZE = 16  # sequences, few enough for their scores to stay in the cache
_GROUP_BYTES = 1 << 18  # roughly the memory of a group


@dataclass(frozen=True)
class _Group:
    """n sequences of equal length L: their `numbers` [n], `rows` [n,L], and `query_rows` [n,A]."""

    numbers: np.ndarray
    rows: np.ndarray
    query_rows: np.ndarray


def _groups(ends: np.ndarray, of_first: bool) -> list[_Group]:
    """Return the sequences with bounds `ends` [B+1] in groups of equal length.

    With `of_first`, there is one query for each sequence, that of its first row.
    """
    length = np.diff(ends)
    order = np.argsort(length, kind="stable")
    by_length = np.split(order, np.flatnonzero(np.diff(length[order])) + 1)
    groups = []
    for numbers in by_length:
        for start in range(0, len(numbers), _GROUP_SIZE):
            part = numbers[start : start + _GROUP_SIZE]
            rows = ends[part, None] + np.arange(length[part[0]])
            groups.append(_Group(part, rows, part[:, None] if of_first else rows))
    return groups


def _heads(rows: np.ndarray, parts: int, heads: int) -> np.ndarray:
    """Return a view [parts,n,H,L,d] of `rows` [n,L,parts*H*d]."""
    return rows.reshape(*rows.shape[:2], parts, heads, -1).transpose(2, 0, 3, 1, 4)


def _rows(by_head: np.ndarray) -> np.ndarray:
    """Return `by_head` [n,H,L,d] as rows [n,L,H*d]."""
    return by_head.transpose(0, 2, 1, 3).reshape(by_head.shape[0], by_head.shape[2], -1)


def _for_each(work: Callable[[_Group], None], groups: list[_Group]) -> None:
    """Call `work` on every group, on all threads."""

    def work_on(part: slice) -> None:
        for group in groups[part]:
            work(group)

    for_each_block(work_on, len(groups), _GROUP_BYTES)


def keys_first(keys: np.ndarray, queries: np.ndarray, multiply: Callable = np.matmul) -> np.ndarray:
    """Return the products [L,n,H,A] of `keys` [n,H,L,d] with `queries` [n,H,A,d]."""
    n, heads, length, _ = keys.shape
    products = np.empty((length, n, heads, queries.shape[2]), keys.dtype)
    multiply(keys, queries.swapaxes(2, 3), out=products.transpose(1, 2, 0, 3))
    return products


class ShortAttention(PyLayer):
    """`sequences.attend` on the CPU for short sequences.

    The attention of a group is kept with its keys first, [L,n,H,A]: NumPy adds up rows of n x H x A numbers
    many times as fast as it adds up the L numbers of each.
    """

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
            queries = _heads((query[group.query_rows] + query_bias) * scale, 1, heads)[0]  # [n,H,A,d]
            keys, values = _heads(key_value[group.rows] + key_value_bias, 2, heads)  # [n,H,L,d]
            attention = keys_first(keys, queries)  # [L,n,H,A]
            if sequences.attends is not None:
                num_queries = group.query_rows.shape[1]
                masks = [sequences.mask_of(number, num_queries) for number in group.numbers]
                attention += np.stack(masks).transpose(2, 0, 1)[:, :, None]
            attention -= attention.max(axis=0)
            np.exp(attention, out=attention)
            attention /= attention.sum(axis=0)
            kept = dropout_mask(attention.shape, dropout, seed + int(group.numbers[0])) if dropout else None
            if keeps:
                saved[group.numbers[0]] = attention, kept
            if dropout:
                attention = attention * kept * np.float32(1 / (1 - dropout))
            context[group.query_rows] = _rows(attention.transpose(1, 2, 3, 0) @ values)

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
            queries = _heads((query[group.query_rows] + query_bias) * scale, 1, heads)[0]
            keys, values = _heads(key_value[group.rows] + key_value_bias, 2, heads)
            d_out = _heads(d_context[group.query_rows], 1, heads)[0]
            attention, kept = saved[group.numbers[0]]
            used, d_score = attention, keys_first(values, d_out)  # [L,n,H,A]
            if dropout:
                factor = kept * np.float32(1 / (1 - dropout))
                used = attention * factor
                d_score *= factor
            d_score -= np.einsum("lnha,lnha->nha", attention, d_score)
            d_score *= attention
            d_query[group.query_rows] = _rows(d_score.transpose(1, 2, 3, 0) @ keys) * scale
            d_rows = np.empty((*group.rows.shape, key_value.shape[1]), key_value.dtype)
            d_keys, d_values = _heads(d_rows, 2, heads)
            np.matmul(d_score.transpose(1, 2, 0, 3), queries, out=d_keys)
            np.matmul(used.transpose(1, 2, 0, 3), d_out, out=d_values)
            d_key_value[group.rows] = d_rows

        _for_each(work, groups)
        d_biases = d_query.sum(axis=0), d_key_value.sum(axis=0)
        return unless_frozen(ctx.frozen, d_query, d_key_value, *d_biases)
