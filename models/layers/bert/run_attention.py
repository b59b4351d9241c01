"""Attention on the CPU by runs of sequences of equal length, which NumPy multiplies and adds up together.

The softmax of a run is kept with its keys first, [L,n,H,A]: NumPy adds up rows of n x H x A numbers many
times as fast as it adds up the L numbers of each.
"""

from collections.abc import Callable, Sequence

import numpy as np

from models.kernels.mkl import multiply_each
from models.layers.bert.row_plan import Run

# Keys of a head with fewer numbers than this (length x head width) are multiplied by NumPy: MKL's call for
# many matrices takes longer than such products.
SHORT = 4096

Factors = np.ndarray | None  # of dropout, [L,n,H,A]; None where nothing is dropped
Softmax = list[tuple[np.ndarray, Factors]]  # of each run


def attend(
    query: np.ndarray,
    key_value: np.ndarray,
    runs: Sequence[Run],
    heads: int,
    factors_of: Callable[[tuple[int, ...], int], Factors],
) -> tuple[np.ndarray, Softmax]:
    """Return multi-head attention softmax(Q K^T + mask) V, and each run's softmax.

    `query` [A,D] are the queries, divided by the root of the head width, `key_value` [N,2D] the keys and
    values. `factors_of(shape, number)` gives the factors of dropout for a run. The result is
    [A,D]. Source: Vaswani et al. 2017, eq. 1.
    """
    context, found = np.empty_like(query), []
    for number, run in enumerate(runs):
        queries, keys, values = _by_head(query, key_value, run, heads)
        attention = np.empty((keys.shape[2], *queries.shape[:3]), queries.dtype)  # [L,n,H,A]
        multiply = _multiply_of(keys)
        multiply(keys, queries.swapaxes(2, 3), out=attention.transpose(1, 2, 0, 3))
        if run.mask is not None:
            attention += run.mask
        attention -= attention.max(axis=0)
        np.exp(attention, out=attention)
        attention /= attention.sum(axis=0)
        factors = factors_of(attention.shape, number)
        found.append((attention, factors))
        used = attention if factors is None else attention * factors
        (answers,) = _heads(context[run.queries], run.count, 1, heads)
        multiply(used.transpose(1, 2, 3, 0), values, out=answers)
    return context, found


def attend_back(
    d_context: np.ndarray,
    query: np.ndarray,
    key_value: np.ndarray,
    runs: Sequence[Run],
    heads: int,
    softmax: Softmax,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the gradients [A,D] of the queries and [N,2D] of keys and values, given that of the result."""
    d_query, d_key_value = np.empty_like(query), np.empty_like(key_value)
    for run, (attention, factors) in zip(runs, softmax, strict=True):
        queries, keys, values = _by_head(query, key_value, run, heads)
        d_queries, d_keys, d_values = _by_head(d_query, d_key_value, run, heads)
        (d_answers,) = _heads(d_context[run.queries], run.count, 1, heads)
        used, d_score = attention, np.empty_like(attention)
        multiply = _multiply_of(keys)
        multiply(values, d_answers.swapaxes(2, 3), out=d_score.transpose(1, 2, 0, 3))
        if factors is not None:
            used = attention * factors
            d_score *= factors
        d_score -= np.einsum("lnha,lnha->nha", attention, d_score)
        d_score *= attention
        multiply(d_score.transpose(1, 2, 3, 0), keys, out=d_queries)
        multiply(d_score.transpose(1, 2, 0, 3), queries, out=d_keys)
        multiply(used.transpose(1, 2, 0, 3), d_answers, out=d_values)
    return d_query, d_key_value


def _by_head(query: np.ndarray, key_value: np.ndarray, run: Run, heads: int) -> tuple[np.ndarray, ...]:
    """Return views of a run's queries [n,H,A,d], keys and values [n,H,L,d]."""
    (queries,) = _heads(query[run.queries], run.count, 1, heads)
    return queries, *_heads(key_value[run.rows], run.count, 2, heads)


def _heads(rows: np.ndarray, count: int, parts: int, heads: int) -> np.ndarray:
    """Return a view [parts,n,H,L,d] of the rows [n*L,parts*H*d] of `count` sequences of one length."""
    return rows.reshape(count, len(rows) // count, parts, heads, -1).transpose(2, 0, 3, 1, 4)


def _multiply_of(keys: np.ndarray) -> Callable:
    """Return the function that multiplies stacks of matrices as large as the `keys` [...,L,d] of a head."""
    return np.matmul if keys.shape[-2] * keys.shape[-1] < SHORT else multiply_each
