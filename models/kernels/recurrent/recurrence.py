"""GRU and LSTM over levels of rows, forward and backward, in NumPy: the recurrent layer of the CPU.

A level holds the sequences that are at the same step; each row of a level continues a row of the previous
level, its parent. A block of rows stays in the cache from the matrix product through all element-wise
operations of a step; one Paddle operation after another takes some ten times as long. Each gate is an array
of its own, [G,n,D], since NumPy is two to four times slower on some columns of a wider array.
`models/kernels/products.py` computes the matrix products.
"""

import functools
from collections.abc import Sequence

import numpy as np

from config.machine.threads import for_each
from models.kernels.products import PackedMatrices, multiply, multiply_transposed
from models.kernels.recurrent.levels import Groups, Level, Rows, add_rows, chain, shifted
from models.kernels.recurrent.steps import GRUSteps, LSTMSteps, Steps
from models.kernels.row_blocks import row_blocks

# Gradients of rows with the same input are summed before they are multiplied if there are fewer distinct
# inputs than this share of the rows.
_SUM_FIRST_BELOW = 0.7


class Recurrence:
    """One recurrent layer over levels of rows: level t is the rows `starts[t]` to `starts[t + 1]` of P.

    `parents[t]`, ascending, are the parents of the rows of level t, numbered from 0 within level t - 1; None:
    row i of the level continues row i. Level 0 has no parents. The input of row p is row `input_row[p]` of x,
    or row p if `input_row` is None. `weights` have PyTorch's and Paddle's layout: weight_ih [G*D,E],
    weight_hh [G*D,D], bias_ih [G*D] and bias_hh [G*D]. With `bfloat16`, products round their factors to it.
    """

    def __init__(
        self,
        kind: Steps,
        weights: Sequence[np.ndarray],
        starts: Sequence[int],
        parents: Sequence[Rows],
        input_row: Rows,
        bfloat16: bool = False,
    ) -> None:
        self._kind, self._weights, self._input_row, self._bfloat16 = kind, weights, input_row, bfloat16
        self._by_gate = [self._gates(weight) for weight in weights]
        self._levels = chain(starts, parents)

    def forward(self, x: np.ndarray, needs_grad: bool, wanted: Rows = None) -> np.ndarray:
        """Return the states [P,D] for inputs `x` [U,E]; with `needs_grad`, store what `backward` needs.

        With `wanted`, and without `needs_grad`, only the states of these rows are returned, and no more than
        two levels are in memory at once.
        """
        _, weight_hh, _, bias_hh = self._by_gate
        packed = PackedMatrices(weight_hh.transpose(0, 2, 1), self._kind.scales, self._bfloat16)
        projected = self._project(x)
        room = weight_hh.shape[2], x.dtype
        states = _AllRows(self._levels, *room) if wanted is None else _WantedRows(self._levels, *room, wanted)
        cells = None
        if self._kind.has_cell:
            cells = (_AllRows if needs_grad else _TwoLevels)(self._levels, *room)
        # Without `backward` less is stored, and large blocks are multiplied faster: their element-wise work
        # costs little, though it leaves the second-level cache.
        row_bytes = projected[:, 0].nbytes // (1 if needs_grad else 16)

        def step(level: Level, products: np.ndarray | None, part: slice) -> None:
            kind, rows = self._kind(), shifted(part, level.start)
            inputs = projected[:, rows]
            if self._input_row is not None:  # indices would leave the gates of a row side by side
                inputs = np.take(projected, self._input_row[rows], axis=1)
            receivers = kind.receivers(inputs, bias_hh)
            before, cell = _before(level, part, states, cells)
            if products is not None:
                add_rows(receivers, products, level.product_of(part))
            elif level.above is not None:
                level.add_products(part, states.of(level.above), before, packed, receivers)
            kind.forward(
                before, cell, states.of(level)[part], None if cells is None else cells.of(level)[part]
            )
            if needs_grad:  # else blocks reuse the memory
                level.steps.append((part, kind))

        for level in self._levels:
            parts = row_blocks(level.size, row_bytes, packed.rows_together)
            products = None  # each block of a large level computes its own, which stay in the cache
            if level.above is not None and len(parts) == 1:
                products = packed.multiply(level.parent_rows(states.of(level.above)))
            for_each(functools.partial(step, level, products), parts)
            states.close(level)
        if needs_grad:
            self._x, self._states, self._cells = x, states, cells
        return states.rows

    def backward(self, d_states: np.ndarray, need_input: bool) -> tuple[np.ndarray | None, ...]:
        """Return the gradients of x (None unless `need_input`) and of the four weights.

        `d_states` [P,D] is the gradient of the states; `forward` must have run with `needs_grad`.
        """
        back = _Backward(self._kind, self._levels, self._states, self._cells, d_states)
        packed = PackedMatrices(self._by_gate[1], bfloat16=self._bfloat16)
        back.run(packed)
        return self._weight_gradients(back.d_hidden, back.d_products, back.parent_states, need_input)

    def _weight_gradients(
        self, d_hidden: np.ndarray, d_products: np.ndarray, parent_states: np.ndarray, need_input: bool
    ) -> tuple[np.ndarray | None, ...]:
        """Return the gradients of x and of the four weights, as `backward` does.

        `d_hidden` [G,P,D] is the gradient of U h + c, `d_products` [G,M,D] that of the M products U h, and
        `parent_states` [M,D] are the states h of the products.
        """
        weight_ih = self._by_gate[0]
        grads = [np.empty_like(weight) for weight in self._weights]
        d_weight_ih, d_weight_hh, d_bias_ih, d_bias_hh = map(self._gates, grads)
        lowered = self._bfloat16
        multiply_transposed(d_products, parent_states, d_weight_hh, lowered)
        ones = np.ones((1, d_hidden.shape[1]), d_hidden.dtype)
        for gate in self._kind.separate_biases:  # a product, since `sum` adds row after row and rounds more
            multiply(ones, d_hidden[gate], out=d_bias_hh[gate][None])
        steps = [(level, *step) for level in self._levels for step in level.steps]
        for_each(lambda step: step[2].to_input_gradients(d_hidden[:, shifted(step[1], step[0].start)]), steps)
        # Every row of x is the input of some row, so `inputs` has as many groups as x has rows. If few rows
        # share an input, one product for each row is faster than to sum the gradients first.
        inputs = None if self._input_row is None else Groups(self._input_row)
        adds_first = inputs is not None and len(self._x) < _SUM_FIRST_BELOW * d_hidden.shape[1]
        own = self._x if inputs is None or adds_first else self._x[self._input_row]
        d_gates = inputs.sum_each(d_hidden) if adds_first else d_hidden
        d_x = np.empty_like(own) if need_input else None
        if lowered:
            multiply_transposed(d_gates, own, d_weight_ih, True)
        else:
            width, x = own.shape[1], _with_column(own, 1)
        for gate, d_gate in enumerate(d_gates):
            if lowered:  # a sum of gradients is no product: it stays in float32
                multiply(np.ones((1, len(d_gate)), d_gate.dtype), d_gate, out=d_bias_ih[gate][None])
            else:
                d_affine = multiply(d_gate.T, x)
                d_weight_ih[gate], d_bias_ih[gate] = d_affine[:, :width], d_affine[:, width]
            if gate not in self._kind.separate_biases:
                d_bias_hh[gate] = d_bias_ih[gate]
            if need_input:
                multiply(d_gate, weight_ih[gate], out=d_x, add=gate > 0, bfloat16=lowered)
        if need_input and own is not self._x:
            d_x = inputs.sum(d_x)
        return d_x, *grads

    def _project(self, x: np.ndarray) -> np.ndarray:
        """Return W x + b of every gate, scaled, [G,U,D]."""
        weight_ih, _, *biases = self._by_gate
        bias = self._kind.input_bias(*biases)
        projected = np.empty((len(bias), len(x), bias.shape[1]), x.dtype)
        if self._bfloat16:  # the biases stay in float32
            for gate, scale in enumerate(self._kind.scales):
                projected[gate] = scale * bias[gate]
                weight = np.float32(scale) * weight_ih[gate]
                multiply(x, weight.T, out=projected[gate], add=True, bfloat16=True)
            return projected
        x = _with_column(x, 1)
        for gate, scale in enumerate(self._kind.scales):
            affine = _with_column(weight_ih[gate], bias[gate])
            multiply(x, affine.T, out=projected[gate], scale=scale)
        return projected

    def _gates(self, x: np.ndarray) -> np.ndarray:
        """Return a view [G,D,...] of a weight or bias [G*D,...]."""
        return x.reshape(self._kind.num_gates, -1, *x.shape[1:])


class _AllRows:
    """The states, or the cells, of all rows: `rows` [P,D]."""

    def __init__(self, levels: Sequence[Level], width: int, dtype: np.dtype) -> None:
        self.rows = np.empty((levels[-1].end, width), dtype)

    def of(self, level: Level) -> np.ndarray:
        """Return the rows [n,D] of a level, to be written or read."""
        return self.rows[level.rows]

    def close(self, level: Level) -> None:
        """Leave the rows of a level, which are written, where they are."""


class _TwoLevels:
    """The states, or the cells, of a level and of the one above."""

    def __init__(self, levels: Sequence[Level], width: int, dtype: np.dtype) -> None:
        self._room = np.empty((2, max(level.size for level in levels), width), dtype)

    def of(self, level: Level) -> np.ndarray:
        """Return the rows [n,D] of a level, to be written, or read until the next but one is written."""
        return self._room[level.number % 2, : level.size]


class _WantedRows(_TwoLevels):
    """The states of two levels, and `rows` [n,D], those of the rows that are `wanted` [n]."""

    def __init__(self, levels: Sequence[Level], width: int, dtype: np.dtype, wanted: np.ndarray) -> None:
        super().__init__(levels, width, dtype)
        self.rows = np.empty((len(wanted), width), dtype)
        self._order = np.argsort(wanted, kind="stable")
        self._wanted = wanted[self._order]

    def close(self, level: Level) -> None:
        """Keep the wanted ones of a level's rows."""
        first, last = np.searchsorted(self._wanted, (level.start, level.end))
        self.rows[self._order[first:last]] = self.of(level)[self._wanted[first:last] - level.start]


_Rows = _AllRows | _TwoLevels


class _Backward:
    """The gradients of one pass back through the levels.

    `d_hidden` [G,P,D] receives the gradient of U h + c of all rows, `d_products` [G,M,D] that of the M
    products U h, and `parent_states` [M,D] the states h of the products.
    """

    def __init__(
        self,
        kind: Steps,
        levels: Sequence[Level],
        states: "_AllRows",
        cells: "_AllRows | None",
        d_states: np.ndarray,
    ) -> None:
        self._kind, self._levels, self._states, self._cells = kind, levels, states, cells
        self._d_states = d_states
        self.d_hidden = np.empty((kind.num_gates, *d_states.shape), d_states.dtype)
        self._shared = any(level.parents is not None for level in levels[1:])
        self.d_products = self.d_hidden[:, levels[0].end :]  # if each row has a product of its own
        if self._shared:
            count = sum(level.num_products for level in levels[1:])
            self.d_products = np.empty((kind.num_gates, count, d_states.shape[1]), d_states.dtype)
        self.parent_states = np.empty(self.d_products.shape[1:], d_states.dtype)

    def run(self, packed: PackedMatrices) -> None:
        """Go from the last level to the first; `packed` are the recurrent weights."""
        shape, kind = (self._levels[-1].size, self._d_states.shape[1]), self._d_states.dtype
        d_state = np.zeros(shape, kind)
        d_cell = np.zeros(shape, kind) if self._kind.has_cell else None
        for level in reversed(self._levels):
            self._through(level, d_state, d_cell)
            if level.above is not None:
                d_state, d_cell = self._to_above(level, packed, d_state, d_cell)

    def _through(self, level: Level, d_state: np.ndarray, d_cell: np.ndarray | None) -> None:
        """Write the gradients of U h + c of a level's rows to `d_hidden`; see the steps' `backward`."""
        d_state += self._d_states[level.rows]

        def step(task: tuple[slice, GRUSteps | LSTMSteps]) -> None:
            part, kind = task
            before, cell = _before(level, part, self._states, self._cells)
            d_part = None if d_cell is None else d_cell[part]
            d_gates = self.d_hidden[:, shifted(part, level.start)]
            kind.backward(before, cell, d_state[part], d_part, d_gates)

        for_each(step, level.steps)

    def _to_above(
        self, level: Level, packed: PackedMatrices, d_state: np.ndarray, d_cell: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the gradients of the states and cells above, from what `_through` left of the level's."""
        d_products = self.d_products[:, level.products]
        self.parent_states[level.products] = level.parent_rows(self._states.of(level.above))
        if self._shared:
            for d_gate, d_product in zip(self.d_hidden[:, level.rows], d_products, strict=True):
                level.sum(d_gate, out=d_product)
        d_above = packed.sum_products(d_products)
        if self._kind.passes_state:
            d_above += level.sum(d_state)
        d_above = level.spread(d_above, level.above.size)
        return d_above, None if d_cell is None else level.spread(level.sum(d_cell), level.above.size)


def _before(
    level: Level, part: slice, states: "_Rows", cells: "_Rows | None"
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the states and the cells [n,D] that the rows `part` of a level continue, zeros at first."""
    if level.above is None:
        zeros = np.zeros_like(states.of(level)[part])
        return zeros, zeros
    parent = level.parent_of(part)
    return states.of(level.above)[parent], None if cells is None else cells.of(level.above)[parent]


def _with_column(x: np.ndarray, column: np.ndarray | float) -> np.ndarray:
    """Return `x` [U,E] with `column` appended, and zeros up to a multiple of 16 columns (a cache line)."""
    count, width = x.shape
    wider = np.zeros((count, -(-(width + 1) // 16) * 16), x.dtype)
    wider[:, :width], wider[:, width] = x, column
    return wider
