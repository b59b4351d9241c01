"""Additive attention (Bahdanau et al. 2015, arXiv 1409.0473): VSRN's caption decoder reads regions by it."""

import numpy as np
import paddle
from paddle import Tensor
from paddle.autograd import PyLayer
from paddle.nn import functional

from models.kernels.mkl import tanh
from models.kernels.row_blocks import array_of, for_each_block, row_blocks, uses_cpu_kernels


def additive_attention(query: Tensor, keys: Tensor, values: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
    """Return sum_r a_r values_r [B,H] with a = softmax_r(weight^T tanh(keys_r + query) + mask_r).

    `query` is [B,K], `keys` [B,R,K], `values` [B,R,H] and `weight` [K]. `mask` [B,R] is 0 at regions, and
    very negative at padding.
    """
    if uses_cpu_kernels(query):
        return _Attention.apply(query, keys, values, weight, mask)
    energy = paddle.tanh(keys + query.unsqueeze(1)) @ weight.unsqueeze(1)  # [B,R,1]
    attention = functional.softmax(energy.squeeze(2) + mask, axis=1)
    return (attention.unsqueeze(1) @ values).squeeze(1)


class _Attention(PyLayer):
    """`additive_attention` on the CPU, where Paddle's tanh and broadcast sums take most of a step."""

    @staticmethod
    def forward(ctx, query, keys, values, weight, mask):
        arrays = query, keys, values, weight, mask = tuple(map(array_of, (query, keys, values, weight, mask)))
        attention, context = np.empty_like(mask), np.empty((len(query), values.shape[2]), values.dtype)

        def work(rows: slice) -> None:
            attend(*(x[rows] for x in (query, keys, values, mask)), weight, attention[rows], context[rows])

        for_each_block(work, len(query), keys[0].nbytes)
        ctx.saved = *arrays, attention
        return paddle.from_dlpack(context)

    @staticmethod
    def backward(ctx, d_context):
        query, keys, values, weight, _, attention = ctx.saved
        d_query, d_keys, d_values = np.empty_like(query), np.zeros_like(keys), np.zeros_like(values)
        rows_of = query, keys, values, attention, array_of(d_context), d_query, d_keys, d_values
        d_weights: dict[int, np.ndarray] = {}

        def work(rows: slice) -> None:
            d_weights[rows.start] = attend_back(weight, *(x[rows] for x in rows_of))

        for_each_block(work, len(query), keys[0].nbytes)
        d_weight = np.sum([d_weights[start] for start in sorted(d_weights)], axis=0)
        return (*map(paddle.from_dlpack, (d_query, d_keys, d_values, d_weight)), None)


def attend(
    query: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    mask: np.ndarray,
    weight: np.ndarray,
    attention: np.ndarray,
    context: np.ndarray,
) -> None:
    """Write the a [B,R] of `additive_attention` to `attention`, and its result [B,H] to `context`.

    The calling thread takes blocks of rows that stay in the cache.
    """
    for rows in row_blocks(len(query), keys[0].nbytes):
        energy = _activation(query[rows], keys[rows]) @ weight  # [b,R]
        energy += mask[rows]
        energy -= energy.max(axis=1, keepdims=True)
        np.exp(energy, out=energy)
        energy /= energy.sum(axis=1, keepdims=True)
        attention[rows] = energy
        context[rows] = (energy[:, None] @ values[rows])[:, 0]


def attend_back(
    weight: np.ndarray,
    query: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    attention: np.ndarray,
    d_context: np.ndarray,
    d_query: np.ndarray,
    d_keys: np.ndarray,
    d_values: np.ndarray,
) -> np.ndarray:
    """Return the gradient [K] of `weight`, given `d_context` [B,H], that of `attend`'s result.

    The gradient of `query` [B,K] is written to `d_query`; those of `keys` and `values` are added to `d_keys`
    [B,R,K] and `d_values` [B,R,H], since a decoder attends to the same regions at each step.
    """
    d_weight = np.zeros_like(weight)
    for rows in row_blocks(len(query), keys[0].nbytes):
        attn, d_out = attention[rows], d_context[rows]
        d_values[rows] += attn[:, :, None] * d_out[:, None]
        d_energy = (values[rows] @ d_out[:, :, None])[:, :, 0]  # [b,R]
        d_energy -= (attn * d_energy).sum(axis=1, keepdims=True)
        d_energy *= attn
        active = _activation(query[rows], keys[rows])  # cheaper to recompute than to store
        d_weight += d_energy.reshape(-1) @ active.reshape(-1, active.shape[2])
        np.multiply(active, active, out=active)
        np.subtract(1, active, out=active)
        active *= d_energy[:, :, None]
        active *= weight
        active.sum(axis=1, out=d_query[rows])
        d_keys[rows] += active
    return d_weight


def _activation(query: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Return tanh(keys + query) [b,R,K]."""
    active = keys + query[:, None]
    tanh(active)
    return active
