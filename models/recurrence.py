"""GRU and LSTM over levels of rows, forward and backward, in NumPy: the recurrent layer of the CPU.

A level holds sequences at the same step; each of its rows continues a row of the level before. A block of
rows stays in the cache while all of a step's element-wise operations pass over it, which is some ten times
faster than one operation of Paddle's after another; NumPy's products are at least as fast as Paddle's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.row_blocks import for_each_block

Rows = np.ndarray | None  # row numbers; None: one after another


class GRUSteps:
    """The element-wise part of a GRU, for up to `size` rows; gates in the order r, z, n.

    `forward` leaves in the arrays what `backward` needs: r, z and n in `gates` [size,3D], U_n h + c_n in
    `hidden_n` [size,D].
    """

    gates_per_unit, has_memory = 3, False

    def __init__(self, size: int, dim: int, dtype: np.dtype, bias_hh: np.ndarray) -> None:
        self.dim = dim
        self.gates, self.hidden_n = np.empty((size, 3 * dim), dtype), np.empty((size, dim), dtype)
        self._bias_n = bias_hh[2 * dim :]

    @staticmethod
    def input_bias(bias_ih: np.ndarray, bias_hh: np.ndarray) -> np.ndarray:
        """Return what is added to W x [3D]: both biases, but for n, where r scales the hidden one."""
        kept = 2 * len(bias_ih) // 3
        return np.concatenate([bias_ih[:kept] + bias_hh[:kept], bias_ih[kept:]])

    def forward(
        self, rows: slice, hidden: np.ndarray, before: np.ndarray, memory: None, state: np.ndarray
    ) -> None:
        """Make the next `state` [n,D] of W x in `gates`, `hidden` = U h [n,3D] and `before` = h [n,D]."""
        gates, hidden_n = self.gates[rows], self.hidden_n[rows]
        r, z, n = _split(gates, 3)
        reset_update = gates[:, : 2 * self.dim]
        reset_update += hidden[:, : 2 * self.dim]
        _sigmoid(reset_update)
        np.add(hidden[:, 2 * self.dim :], self._bias_n, out=hidden_n)
        n += np.multiply(r, hidden_n, out=state)
        np.tanh(n, out=n)
        np.subtract(before, n, out=state)
        state *= z
        state += n

    def backward(
        self,
        rows: slice,
        before: np.ndarray,
        memory: None,
        d_state: np.ndarray,
        d_memory: None,
        d_hidden: np.ndarray,
    ) -> None:
        """Write the gradient of U h + c to `d_hidden` [n,3D].

        `d_state` [n,D] becomes the gradient that reaches h beside the product. That of n's W x replaces
        `hidden_n`; r's and z's are the same as those of U h.
        """
        hidden_n = self.hidden_n[rows]
        (r, z, n), (d_r, d_z, d_n) = _split(self.gates[rows], 3), _split(d_hidden, 3)
        fresh = 1 - z
        _tanh_slope(n, out=d_n)
        d_n *= d_state
        d_n *= fresh
        d_state *= z
        np.subtract(before, n, out=d_z)
        d_z *= d_state
        d_z *= fresh
        np.subtract(1, r, out=d_r)
        d_r *= hidden_n
        hidden_n[:] = d_n
        d_n *= r
        d_r *= d_n

    def turn_to_inputs(self, d_hidden: np.ndarray) -> None:
        """Make the gradients of W x [size,3D] of those of U h + c."""
        d_hidden[:, 2 * self.dim :] = self.hidden_n


class LSTMSteps:
    """The element-wise part of an LSTM, for up to `size` rows; gates in the order i, f, g, o.

    `forward` leaves in the arrays what `backward` needs: the gates in `gates` [size,4D], the cell c in
    `memory` and tanh(c) in `shown` [size,D].
    """

    gates_per_unit, has_memory = 4, True

    def __init__(self, size: int, dim: int, dtype: np.dtype, bias_hh: np.ndarray) -> None:
        self.dim = dim
        self.gates = np.empty((size, 4 * dim), dtype)
        self.memory, self.shown = np.empty((size, dim), dtype), np.empty((size, dim), dtype)

    @staticmethod
    def input_bias(bias_ih: np.ndarray, bias_hh: np.ndarray) -> np.ndarray:
        """Return what is added to W x [4D]: both biases."""
        return bias_ih + bias_hh

    def forward(
        self, rows: slice, hidden: np.ndarray, before: np.ndarray, memory: np.ndarray, state: np.ndarray
    ) -> None:
        """Make the next `state` [n,D] and cell of W x in `gates`, `hidden` = U h [n,4D] and the old cell."""
        gates, cell, shown = self.gates[rows], self.memory[rows], self.shown[rows]
        gates += hidden
        i, f, g, o = _split(gates, 4)
        _sigmoid(gates[:, : 2 * self.dim])
        np.tanh(g, out=g)
        _sigmoid(o)
        np.multiply(f, memory, out=cell)
        cell += np.multiply(i, g, out=state)
        np.tanh(cell, out=shown)
        np.multiply(o, shown, out=state)

    def backward(
        self,
        rows: slice,
        before: np.ndarray,
        memory: np.ndarray,
        d_state: np.ndarray,
        d_memory: np.ndarray,
        d_hidden: np.ndarray,
    ) -> None:
        """Write the gradient of W x and of U h to `d_hidden` [n,4D].

        `d_memory` [n,D], the gradient of the cell, becomes that of the cell before, and `d_state` [n,D] what
        reaches h beside the product: nothing.
        """
        shown = self.shown[rows]
        (i, f, g, o), (d_i, d_f, d_g, d_o) = _split(self.gates[rows], 4), _split(d_hidden, 4)
        np.multiply(d_state, o, out=d_f)
        d_f *= _tanh_slope(shown, out=d_i)
        d_memory += d_f
        _sigmoid_slope(o, out=d_o)
        d_o *= shown
        d_o *= d_state
        d_state[:] = 0
        _tanh_slope(g, out=d_g)
        d_g *= i
        d_g *= d_memory
        _sigmoid_slope(i, out=d_i)
        d_i *= g
        d_i *= d_memory
        _sigmoid_slope(f, out=d_f)
        d_f *= memory
        d_f *= d_memory
        d_memory *= f

    def turn_to_inputs(self, d_hidden: np.ndarray) -> None:
        """W x and U h are added, so their gradients are equal."""


Steps = type[GRUSteps] | type[LSTMSteps]


class Groups:
    """Rows that have the same number: `of` [m] the different numbers, rising; `member` [N] which of them."""

    def __init__(self, numbers: np.ndarray) -> None:
        self._order = np.argsort(numbers, kind="stable")
        self.of, first, self.member, counts = np.unique(
            numbers, return_index=True, return_inverse=True, return_counts=True
        )
        self.member = self.member.reshape(-1)
        self._first, self._alone = first, counts == 1
        start = np.cumsum(counts) - counts
        self._several = [
            (group, slice(start[group], start[group] + counts[group]))
            for group in np.flatnonzero(~self._alone).tolist()
        ]

    def sum(self, x: np.ndarray) -> np.ndarray:
        """Return the sums [m,D] of the rows of `x` [N,D] by group (`reduceat` takes ten times as long)."""
        sums = np.empty((len(self.of), x.shape[1]), x.dtype)
        sums[self._alone] = x[self._first[self._alone]]
        for group, part in self._several:
            np.add.reduce(x[self._order[part]], axis=0, out=sums[group])
        return sums


@dataclass(frozen=True)
class Level:
    """Rows `start` to `end` of P, and the rows of the level before that they continue, counted from 0 there.

    The recurrent product is taken once for each different one of them. None: each row continues the one of
    its own number.
    """

    start: int
    end: int
    parents: Groups | None

    @property
    def size(self) -> int:
        return self.end - self.start

    def continued(self, before: np.ndarray) -> np.ndarray:
        """Return the different rows [m,D] of the level before that are continued."""
        return before[: self.size] if self.parents is None else before[self.parents.of]

    def parent_of(self, part: slice) -> slice | np.ndarray:
        """Return the rows of the level before that a part continues."""
        return part if self.parents is None else self.parents.of[self.parents.member[part]]

    def product_of(self, part: slice) -> slice | np.ndarray:
        """Return which of the products serve a part."""
        return part if self.parents is None else self.parents.member[part]

    def sum(self, x: np.ndarray) -> np.ndarray:
        """Return `x` [n,D] summed over the rows that continue the same one: [m,D]."""
        return x if self.parents is None else self.parents.sum(x)

    def spread(self, sums: np.ndarray, count: int) -> np.ndarray:
        """Return `sums` [m,D] as the rows [count,D] of the level before, zero where nothing continues it."""
        if self.parents is None and count == len(sums):
            return sums
        rows = np.zeros((count, sums.shape[1]), sums.dtype)
        rows[slice(len(sums)) if self.parents is None else self.parents.of] = sums
        return rows


class Recurrence:
    """One recurrent layer over levels: level t is the rows `starts[t]` to `starts[t + 1]` of P.

    `parents[t]` are the rows of level t - 1 (counted from 0 there) that those of level t continue; None:
    its first rows, in order (level 0 continues nothing). The input of row p is row `input_row[p]` of x, or p.
    Weights have PyTorch's and Paddle's layout: `weight_ih` [G*D,E], `weight_hh` [G*D,D], biases [G*D].
    """

    def __init__(
        self,
        kind: Steps,
        weights: Sequence[np.ndarray],
        starts: Sequence[int],
        parents: Sequence[Rows],
        input_row: Rows,
    ) -> None:
        self._kind, self._weights, self._input_row = kind, weights, input_row
        self._levels = [
            Level(start, end, None if rows is None else Groups(rows))
            for start, end, rows in zip(starts[:-1], starts[1:], parents, strict=True)
        ]

    def forward(self, x: np.ndarray, learning: bool) -> np.ndarray:
        """Return the states [P,D] of x [U,E]; `learning` keeps what `backward` needs."""
        weight_ih, weight_hh, bias_ih, bias_hh = self._weights
        dim, total = weight_hh.shape[1], self._levels[-1].end
        widest = max(level.size for level in self._levels)
        steps = self._kind(total if learning else widest, dim, x.dtype, bias_hh)
        projected = x @ weight_ih.T
        projected += self._kind.input_bias(bias_ih, bias_hh)  # [U,G*D]
        states = np.empty((total, dim), x.dtype)
        products = np.empty((widest, len(bias_hh)), x.dtype)
        before, memory = np.zeros((widest, dim), x.dtype), None
        if steps.has_memory:
            memory = before
        for number, level in enumerate(self._levels):
            if number == 0:  # a state of zeros needs no product
                products[: level.size] = 0
            else:
                continued = level.continued(before)
                np.matmul(continued, weight_hh.T, out=products[: len(continued)])
            first = level.start if learning else 0

            def step(
                part: slice,
                level: Level = level,
                first: int = first,
                before: np.ndarray = before,
                memory: np.ndarray | None = memory,
            ) -> None:
                here, rows = _shifted(part, level.start), _shifted(part, first)
                steps.gates[rows] = projected[here if self._input_row is None else self._input_row[here]]
                parent = level.parent_of(part)
                old = None if memory is None else memory[parent]
                steps.forward(rows, products[level.product_of(part)], before[parent], old, states[here])

            for_each_block(step, level.size, products[0].nbytes)
            before = states[level.start : level.end]
            if steps.has_memory:
                memory = steps.memory[first : first + level.size]
                memory = memory if learning else memory.copy()  # the next level writes there
        if learning:
            self._x, self._states, self._steps = x, states, steps
        return states

    def backward(self, d_states: np.ndarray, need_input: bool) -> tuple[np.ndarray | None, ...]:
        """Return the gradients of x (None unless `need_input`) and of the four weights."""
        weight_ih, weight_hh, _, bias_hh = self._weights
        steps, states, levels = self._steps, self._states, self._levels
        d_hidden = np.empty((len(states), len(bias_hh)), d_states.dtype)
        d_products, continued = [], []
        d_state = d_memory = None
        for number in reversed(range(len(levels))):
            level = levels[number]
            rows = slice(level.start, level.end)
            d_state = d_states[rows] + (0 if d_state is None else d_state)
            if steps.has_memory and d_memory is None:
                d_memory = np.zeros_like(d_state)
            previous = slice(levels[number - 1].start, levels[number - 1].end) if number else None
            self._step_back(level, previous, d_state, d_memory, d_hidden)
            if previous is not None:
                before = states[previous]
                continued.append(level.continued(before))
                d_products.append(level.sum(d_hidden[rows]))
                d_before = d_products[-1] @ weight_hh
                d_before += level.sum(d_state)
                d_state = level.spread(d_before, len(before))
                if steps.has_memory:
                    d_memory = level.spread(level.sum(d_memory), len(before))
        if d_products:
            d_weight_hh = np.concatenate(d_products).T @ np.concatenate(continued)
        else:
            d_weight_hh = np.zeros_like(weight_hh)
        d_bias_hh = _sum_of_rows(d_hidden)
        steps.turn_to_inputs(d_hidden)
        d_bias_ih = _sum_of_rows(d_hidden)
        if self._input_row is not None:
            d_hidden = Groups(self._input_row).sum(d_hidden)  # every row of x is some row's input
        d_x = d_hidden @ weight_ih if need_input else None
        return d_x, d_hidden.T @ self._x, d_weight_hh, d_bias_ih, d_bias_hh

    def _step_back(
        self,
        level: Level,
        previous: slice | None,
        d_state: np.ndarray,
        d_memory: np.ndarray | None,
        d_hidden: np.ndarray,
    ) -> None:
        """Write the gradients of a level's products to `d_hidden`, those of what it continues in place."""
        steps = self._steps
        if previous is None:
            before = memory = np.zeros_like(d_state)
        else:
            before, memory = self._states[previous], steps.memory[previous] if steps.has_memory else None

        def step(part: slice) -> None:
            parent, here = level.parent_of(part), _shifted(part, level.start)
            old, d_old = (memory[parent], d_memory[part]) if steps.has_memory else (None, None)
            steps.backward(here, before[parent], old, d_state[part], d_old, d_hidden[here])

        for_each_block(step, level.size, d_hidden[0].nbytes)


def _split(gates: np.ndarray, count: int) -> list[np.ndarray]:
    """Return views [n,D] of the gates [n,count*D]."""
    dim = gates.shape[1] // count
    return [gates[:, number * dim : (number + 1) * dim] for number in range(count)]


def _sigmoid(x: np.ndarray) -> None:
    """Replace `x` by its logistic function 1 / (1 + exp(-x))."""
    np.negative(x, out=x)
    with np.errstate(over="ignore"):  # one over infinity is the 0 that it should be
        np.exp(x, out=x)
    x += 1
    np.reciprocal(x, out=x)


def _sigmoid_slope(y: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Return the logistic function's slope y (1 - y) where its value is `y`."""
    np.subtract(1, y, out=out)
    out *= y
    return out


def _tanh_slope(y: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Return the slope 1 - y^2 of tanh where its value is `y`."""
    np.multiply(y, y, out=out)
    return np.subtract(1, out, out=out)


def _sum_of_rows(x: np.ndarray) -> np.ndarray:
    """Return the sum [D] of `x` [P,D] over axis 0, as a product: `sum` adds row to row, and rounds more."""
    return np.ones(len(x), x.dtype) @ x


def _shifted(part: slice, start: int) -> slice:
    return slice(part.start + start, part.stop + start)
