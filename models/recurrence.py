"""GRU and LSTM over levels of rows, forward and backward, in NumPy: the recurrent layer of the CPU.

A level holds sequences at the same step; each of its rows continues a row of the level before. A block of rows
stays in the cache while all of a step's element-wise operations pass over it, which is some ten times faster
than one operation of Paddle's after another; NumPy's products are at least as fast as Paddle's.
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
        """Make the next `state` [n,D] and cell of W x in `gates`, `hidden` = U h [n,4D] and the cell before."""
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


@dataclass(frozen=True)
class Level:
    """Rows `start` to `end` of P, and what they continue in the level before, whose rows count from 0.

    `parents` [n] are the rows that they continue. The recurrent product is taken once for each different
    one, `sources` [m], of which `product` [n] says which serves a row. None: the first n or m, in order.
    """

    start: int
    end: int
    parents: Rows
    sources: Rows
    product: Rows

    @staticmethod
    def of(start: int, end: int, parents: Rows) -> "Level":
        """Return the level of those rows."""
        if parents is None:
            return Level(start, end, None, None, None)
        sources, product = np.unique(parents, return_inverse=True)
        return Level(start, end, parents, sources, product.reshape(-1))

    @property
    def size(self) -> int:
        return self.end - self.start

    @property
    def num_sources(self) -> int:
        return self.size if self.sources is None else len(self.sources)


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
        self._levels = list(map(Level.of, starts[:-1], starts[1:], parents))

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
                sources = before[: level.size] if level.sources is None else before[level.sources]
                np.matmul(sources, weight_hh.T, out=products[: len(sources)])
            first = level.start if learning else 0

            def step(part: slice, level: Level = level, first: int = first) -> None:
                here, rows = _shifted(part, level.start), _shifted(part, first)
                steps.gates[rows] = projected[here if self._input_row is None else self._input_row[here]]
                hidden = products[_rows(level.product, part)]
                chosen = _rows(level.parents, part)
                old = None if memory is None else memory[chosen]
                steps.forward(rows, hidden, before[chosen], old, states[here])

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
        d_products, sources = [], []
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
                d_product, before = d_hidden[rows], states[previous]
                if level.sources is not None:
                    d_product = _add_rows(d_product, level.product, level.num_sources)
                sources.append(before[_rows(level.sources, slice(0, level.num_sources))])
                d_products.append(d_product)
                d_state = _add_rows(d_state, level.parents, len(before))
                d_state[_rows(level.sources, slice(0, level.num_sources))] += d_product @ weight_hh
                if steps.has_memory:
                    d_memory = _add_rows(d_memory, level.parents, len(before))
        if d_products:
            d_weight_hh = np.concatenate(d_products).T @ np.concatenate(sources)
        else:
            d_weight_hh = np.zeros_like(weight_hh)
        d_bias_hh = _sum_of_rows(d_hidden)
        steps.turn_to_inputs(d_hidden)
        d_bias_ih = _sum_of_rows(d_hidden)
        if self._input_row is not None:
            d_hidden = _add_rows(d_hidden, self._input_row, len(self._x))
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
            chosen, here = _rows(level.parents, part), _shifted(part, level.start)
            old, d_old = (memory[chosen], d_memory[part]) if steps.has_memory else (None, None)
            steps.backward(here, before[chosen], old, d_state[part], d_old, d_hidden[here])

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


def _rows(rows: Rows, part: slice) -> np.ndarray | slice:
    """Return the row numbers that a part of `rows` holds."""
    return part if rows is None else rows[part]


def _add_rows(x: np.ndarray, rows: Rows, count: int) -> np.ndarray:
    """Return [count,D], where the rows of `x` [N,D] that go to the same one of `rows` [N] are added up."""
    if rows is None and len(x) == count:
        return x
    sums = np.zeros((count, x.shape[1]), x.dtype)
    if rows is None:
        sums[: len(x)] = x
        return sums
    order = np.argsort(rows, kind="stable")
    targets, first = np.unique(rows[order], return_index=True)
    in_order = (order[1:] > order[:-1]).all()
    sums[targets] = np.add.reduceat(x if in_order else x[order], first, axis=0)
    return sums


def _sum_of_rows(x: np.ndarray) -> np.ndarray:
    """Return the sum [D] of `x` [P,D] over axis 0, as a product: `sum` adds row to row, and rounds more."""
    return np.ones(len(x), x.dtype) @ x


def _shifted(part: slice, start: int) -> slice:
    return slice(part.start + start, part.stop + start)
