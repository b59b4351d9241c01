"""Additive attention (Bahdanau et al. 2015, arXiv 1409.0473): how VSRN's caption decoder sees regions."""

import numpy as np
import paddle
from paddle import Tensor
from paddle.autograd import PyLayer
from paddle.nn import functional

from models.kernels.row_blocks import array_of, for_each_block, uses_cpu_kernels


def additive_attention(query: Tensor, keys: Tensor, values: Tensor, weight: Tensor, barred: Tensor) -> Tensor:
    """Return sum_r a_r values_r [B,H] with a = softmax_r(weight^T tanh(keys_r + query) + barred_r).

    `query` [B,K], `keys` [B,R,K], `values` [B,R,H], `weight` [K]; `barred` [B,R] is 0, or very negative where
    there is nothing to attend to.
    """
    if uses_cpu_kernels(query):
        return _Attention.apply(query, keys, values, weight, barred)
    energy = paddle.tanh(keys + query.unsqueeze(1)) @ weight.unsqueeze(1)  # [B,R,1]
    shares = functional.softmax(energy.squeeze(2) + barred, axis=1)
    return (shares.unsqueeze(1) @ values).squeeze(1)


class _Attention(PyLayer):
    """The same on the CPU, where Paddle's tanh and broadcast sums take most of a training step."""

    @staticmethod
    def forward(ctx, query, keys, values, weight, barred):
        arrays = query, keys, values, weight, barred = tuple(
            map(array_of, (query, keys, values, weight, barred))
        )
        shares, context = np.empty_like(barred), np.empty((len(query), values.shape[2]), values.dtype)

        def attend(rows: slice) -> None:
            energy = _activation(query, keys, rows) @ weight  # [b,R]
            energy += barred[rows]
            energy -= energy.max(axis=1, keepdims=True)
            np.exp(energy, out=energy)
            energy /= energy.sum(axis=1, keepdims=True)
            shares[rows] = energy
            context[rows] = (energy[:, None] @ values[rows])[:, 0]

        for_each_block(attend, len(query), keys[0].nbytes)
        ctx.saved = *arrays, shares
        return paddle.from_dlpack(context)

    @staticmethod
    def backward(ctx, d_context):
        query, keys, values, weight, _, shares = ctx.saved
        d_context = array_of(d_context)
        d_query, d_keys, d_values = map(np.empty_like, (query, keys, values))
        d_weights: dict[int, np.ndarray] = {}

        def step_back(rows: slice) -> None:
            share, d_out = shares[rows], d_context[rows]
            np.multiply(share[:, :, None], d_out[:, None], out=d_values[rows])
            d_energy = (values[rows] @ d_out[:, :, None])[:, :, 0]  # [b,R]
            d_energy -= (share * d_energy).sum(axis=1, keepdims=True)
            d_energy *= share
            active = _activation(query, keys, rows)  # cheaper to make again than to keep
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
    """Return tanh(keys + query) [b,R,K] of those rows."""
    active = keys[rows] + query[rows, None]
    return np.tanh(active, out=active)
