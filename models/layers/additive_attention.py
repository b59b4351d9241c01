"""Additive attention (Bahdanau et al. 2015, arXiv 1409.0473): VSRN's caption decoder reads regions by it."""

import numpy as np
import paddle
from paddle import Tensor
from paddle.autograd import PyLayer
from paddle.nn import functional

from models.kernels.row_blocks import array_of, for_each_block, uses_cpu_kernels


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

        def attend(rows: slice) -> None:
            energy = _activation(query, keys, rows) @ weight  # [b,R]
            energy += mask[rows]
            energy -= energy.max(axis=1, keepdims=True)
            np.exp(energy, out=energy)
            energy /= energy.sum(axis=1, keepdims=True)
            attention[rows] = energy
            context[rows] = (energy[:, None] @ values[rows])[:, 0]

        for_each_block(attend, len(query), keys[0].nbytes)
        ctx.saved = *arrays, attention
        return paddle.from_dlpack(context)

    @staticmethod
    def backward(ctx, d_context):
        query, keys, values, weight, _, attention = ctx.saved
        d_context = array_of(d_context)
        d_query, d_keys, d_values = map(np.empty_like, (query, keys, values))
        d_weights: dict[int, np.ndarray] = {}

        def step_back(rows: slice) -> None:
            attn, d_out = attention[rows], d_context[rows]
            np.multiply(attn[:, :, None], d_out[:, None], out=d_values[rows])
            d_energy = (values[rows] @ d_out[:, :, None])[:, :, 0]  # [b,R]
            d_energy -= (attn * d_energy).sum(axis=1, keepdims=True)
            d_energy *= attn
            active = _activation(query, keys, rows)  # cheaper to recompute than to store
            d_weights[rows.start] = d_energy.reshape(-1) @ active.reshape(-1, active.shape[2])
            np.multiply(active, active, out=active)
            d_active = np.subtract(1, active, out=d_keys[rows])
            d_active *= d_energy[:, :, None]
            d_active *= weight
            d_active.sum(axis=1, out=d_query[rows])

        for_each_block(step_back, len(query), keys[0].nbytes)
        d_weight = np.sum([d_weights[start] for start in sorted(d_weights)], axis=0)
        return (*map(paddle.from_dlpack, (d_query, d_keys, d_values, d_weight)), None)


def _activation(query: np.ndarray, keys: np.ndarray, rows: slice) -> np.ndarray:
    """Return tanh(keys + query) [b,R,K] of a block of rows."""
    active = keys[rows] + query[rows, None]
    return np.tanh(active, out=active)
