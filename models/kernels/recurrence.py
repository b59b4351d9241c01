"""GRU and LSTM over levels of rows, forward and backward, in NumPy: the recurrent layer of the CPU.

A level holds the sequences that are at the same step; each row of a level continues a row of the previous
level, its parent. A block of rows stays in the cache from the matrix product through all element-wise
operations of a step; one Paddle operation after another takes some ten times as long. Each gate is an array
of its own, [G,n,D], since NumPy is two to four times slower on some columns of a wider array.
`models/kernels/products.py` computes the matrix products.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.kernels.products import PackedMatrices, multiply
from models.kernels.recurrent_steps import GRUSteps, LSTMSteps, Steps
from models.kernels.row_blocks import for_each, row_blocks

Rows = np.ndarray | None  # row numbers; None stands for 0, 1, 2, ...

# Gradients of rows with the same input are summed before they are multiplied if there are fewer distinct
# inputs than this share of the rows.
_SUM_FIRST_BELOW = 0.7
# Rows with the same parent share its product if there are fewer distinct parents than this share of the rows:
# to gather products costs a tenth of a product.
_SHARE_BELOW = 0.9


class Groups:
    """Rows grouped by their number.

    `distinct` [m] are the distinct numbers, ascending. `member` [N] is each row's index in `distinct`.
    """

    def __init__(self, numbers: np.ndarray) -> None:
        self._order = np.argsort(numbers, kind="stable")
        self.distinct, first, self.member, counts = np.unique(
            numbers, return_index=True, return_inverse=True, return_counts=True
        )
        self.member = self.member.reshape(-1)
        self._first = first
        start = np.cumsum(counts) - counts
        self._repeated = [
            (group, slice(start[group], start[group] + counts[group]))
            for group in np.flatnonzero(counts > 1).tolist()
        ]

    def sum(self, x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return the sums [m,D] of the rows of `x` [N,D] by group, written to `out` if given."""
        sums = np.take(x, self._first, axis=0, out=out, mode="clip")
        for group, part in self._repeated:  # `reduceat` takes ten times as long
            np.add.reduce(x[self._order[part]], axis=0, out=sums[group])
        return sums


@dataclass(frozen=True)
class Level:
    """Rows `start` to `end` of the P rows, with the rows of the previous level that they continue.

    `parents` groups the rows by parent; parents are numbered from 0 within the previous level. None: row i
    continues row i. The recurrent product is computed once for each of the m distinct parents.
    """

    start: int
    end: int
    parents: Groups | None

    @property
    def size(self) -> int:
        return self.end - self.start

    @property
    def num_products(self) -> int:
        """The number m of distinct parents."""
        return self.size if self.parents is None else len(self.parents.distinct)

    def parent_rows(self, previous: np.ndarray) -> np.ndarray:
        """Return the rows [m,D] of the distinct parents among those of the previous level."""
        return previous[: self.size] if self.parents is None else previous[self.parents.distinct]

    def parent_of(self, part: slice) -> slice | np.ndarray:
        """Return the parent, numbered within the previous level, of each row of `part`."""
        return part if self.parents is None else self.parents.distinct[self.parents.member[part]]

    def product_of(self, part: slice) -> slice | np.ndarray:
        """Return, for each row of `part`, which of the m products it needs."""
        return part if self.parents is None else self.parents.member[part]

    @property
    def all_distinct(self) -> bool:
        """True if no two rows have the same parent."""
        return self.num_products == self.size

    def add_products(
        self,
        part: slice,
        previous: np.ndarray,
        before: np.ndarray,
        packed: PackedMatrices,
        out: Sequence[np.ndarray],
    ) -> None:
        """Add the products of the parents of a part's n rows to `out`, [n,D] each, on the calling thread.

        `before` [n,D] are the parents of the rows, among the rows `previous` of the previous level.
        """
        if not self.all_distinct:
            distinct, product_of = np.unique(self.parents.member[part], return_inverse=True)
            if len(distinct) < _SHARE_BELOW * len(before):
                products = packed.multiply_on_one_thread(previous[self.parents.distinct[distinct]])
                add_rows(out, products, product_of.reshape(-1))
                return
        packed.add_on_one_thread(before, out)

    def sum(self, x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return `x` [n,D] summed over the rows of each parent, [m,D], written to `out` if given."""
        if self.parents is not None:
            return self.parents.sum(x, out)
        return x if out is None else np.copyto(out, x) or out

    def spread(self, sums: np.ndarray, count: int) -> np.ndarray:
        """Return rows [count,D] of the previous level: `sums` [m,D] at the parents, and 0 elsewhere."""
        if self.parents is None and count == len(sums):
            return sums
        rows = np.zeros((count, sums.shape[1]), sums.dtype)
        rows[slice(len(sums)) if self.parents is None else self.parents.distinct] = sums
        return rows


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
        self._levels = [
            Level(start, end, None if rows is None else Groups(rows))
            for start, end, rows in zip(starts[:-1], starts[1:], parents, strict=True)
        ]

    def forward(self, x: np.ndarray, needs_grad: bool) -> np.ndarray:
        """Return the states [P,D] for inputs `x` [U,E]; with `needs_grad`, store what `backward` needs."""
        _, weight_hh, _, bias_hh = self._by_gate
        packed = PackedMatrices(weight_hh.transpose(0, 2, 1), self._kind.scales, self._bfloat16)
        projected = self._project(x)
        states = np.empty((self._levels[-1].end, weight_hh.shape[2]), x.dtype)
        previous = cell = np.zeros((self._levels[0].size, weight_hh.shape[2]), x.dtype)
        steps, cells = [], []
        row_bytes = projected[:, 0].nbytes // (1 if needs_grad else 2)  # without `backward` less is stored
        for level in self._levels:
            parts = row_blocks(level.size, row_bytes, packed.rows_together)
            products = None  # each block of a large level computes its own, which stay in the cache
            if level.start and len(parts) == 1:
                products = packed.multiply(level.parent_rows(previous))
            new_cell = np.empty((level.size, states.shape[1]), x.dtype) if self._kind.has_cell else None
            kinds: dict[int, GRUSteps | LSTMSteps] = {}  # none without `backward`: blocks reuse their memory

            def step(
                part: slice,
                level: Level = level,
                products: np.ndarray | None = products,
                previous: np.ndarray = previous,
                cell: np.ndarray | None = cell,
                new_cell: np.ndarray | None = new_cell,
                kinds: dict[int, GRUSteps | LSTMSteps] = kinds,
            ) -> None:
                kind, rows, parent = self._kind(), _shifted(part, level.start), level.parent_of(part)
                inputs = projected[:, rows]
                if self._input_row is not None:  # indices would leave the gates of a row side by side
                    inputs = np.take(projected, self._input_row[rows], axis=1)
                receivers, before = kind.receivers(inputs, bias_hh), previous[parent]
                if products is not None:
                    add_rows(receivers, products, level.product_of(part))
                elif level.start:
                    level.add_products(part, previous, before, packed, receivers)
                old, new = (cell[parent], new_cell[part]) if kind.has_cell else (None, None)
                kind.forward(before, old, states[rows], new)
                if needs_grad:
                    kinds[part.start] = kind

            for_each(step, parts)
            previous, cell = states[level.start : level.end], new_cell
            if needs_grad:
                steps.append([(part, kinds[part.start]) for part in parts])
                cells.append(cell)
        if needs_grad:
            self._x, self._states, self._steps, self._cells = x, states, steps, cells
        return states

    def backward(self, d_states: np.ndarray, need_input: bool) -> tuple[np.ndarray | None, ...]:
        """Return the gradients of x (None unless `need_input`) and of the four weights.

        `d_states` [P,D] is the gradient of the states; `forward` must have run with `needs_grad`.
        """
        d_hidden = np.empty((self._kind.num_gates, *d_states.shape), d_states.dtype)  # [G,P,D]
        packed = PackedMatrices(self._by_gate[1], bfloat16=self._bfloat16)
        num_products = sum(level.num_products for level in self._levels[1:])
        shared = any(level.parents is not None for level in self._levels[1:])
        d_products = d_hidden[:, self._levels[0].end :]  # if each row has a product of its own
        if shared:
            d_products = np.empty((len(d_hidden), num_products, d_states.shape[1]), d_states.dtype)
        parent_states = np.empty(d_products.shape[1:], d_states.dtype)
        d_state, d_cell = np.zeros((2, self._levels[-1].size, d_states.shape[1]), d_states.dtype)
        for number in reversed(range(len(self._levels))):
            level = self._levels[number]
            rows = slice(level.start, level.end)
            d_state += d_states[rows]
            d_previous = None
            if number and level.parents is None and len(self._steps[number]) > 1:
                d_previous = np.empty_like(d_state)
            self._step_back(number, d_state, d_cell, d_hidden[:, rows], packed, d_previous)
            if number == 0:
                break
            previous = self._states[self._levels[number - 1].start : level.start]
            products = slice(num_products - level.num_products, num_products)
            num_products = products.start
            parent_states[products] = level.parent_rows(previous)
            if shared:
                for d_gate, d_product in zip(d_hidden[:, rows], d_products[:, products], strict=True):
                    level.sum(d_gate, out=d_product)
            if d_previous is None:
                d_previous = packed.sum_products(d_products[:, products])
                if self._kind.passes_state:
                    d_previous += level.sum(d_state)
            d_state = level.spread(d_previous, len(previous))
            if self._kind.has_cell:
                d_cell = level.spread(level.sum(d_cell), len(previous))
        return self._weight_gradients(d_hidden, d_products, parent_states, need_input)

    def _step_back(
        self,
        number: int,
        d_state: np.ndarray,
        d_cell: np.ndarray,
        d_hidden: np.ndarray,
        packed: PackedMatrices,
        d_previous: np.ndarray | None,
    ) -> None:
        """Step back through level `number`: write the gradients of its U h + c to `d_hidden` [G,n,D].

        `d_state` and `d_cell` [n,D] are overwritten as by the steps' `backward`. `d_previous` [n,D], if
        given, receives the gradient of the previous states, computed while each block is in the cache.
        """
        level = self._levels[number]
        if number:
            previous = self._states[self._levels[number - 1].start : level.start]
            cell = self._cells[number - 1]
        else:
            previous = cell = np.zeros_like(d_state)

        def step(task: tuple[slice, GRUSteps | LSTMSteps]) -> None:
            part, kind = task
            parent = level.parent_of(part)
            old, d_old = (cell[parent], d_cell[part]) if kind.has_cell else (None, None)
            kind.backward(previous[parent], old, d_state[part], d_old, d_hidden[:, part])
            if d_previous is not None:
                packed.sum_products_on_one_thread(d_hidden[:, part], d_previous[part])
                if kind.passes_state:
                    d_previous[part] += d_state[part]

        for_each(step, self._steps[number])

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
        for gate, d_product in enumerate(d_products):
            multiply(d_product.T, parent_states, out=d_weight_hh[gate], bfloat16=self._bfloat16)
        ones = np.ones((1, d_hidden.shape[1]), d_hidden.dtype)
        for gate in self._kind.separate_biases:  # a product, since `sum` adds row after row and rounds more
            multiply(ones, d_hidden[gate], out=d_bias_hh[gate][None])
        for level, tasks in zip(self._levels, self._steps, strict=True):
            for part, kind in tasks:
                kind.to_input_gradients(d_hidden[:, _shifted(part, level.start)])
        # Every row of x is the input of some row, so `inputs` has as many groups as x has rows. If few rows
        # share an input, one product for each row is faster than to sum the gradients first.
        inputs = None if self._input_row is None else Groups(self._input_row)
        adds_first = inputs is not None and len(self._x) < _SUM_FIRST_BELOW * d_hidden.shape[1]
        own = self._x if inputs is None or adds_first else self._x[self._input_row]
        width, x = own.shape[1], own if self._bfloat16 else _with_column(own, 1)
        d_x = np.empty_like(own) if need_input else None
        for gate, d_gate in enumerate(d_hidden):
            d_gate = inputs.sum(d_gate) if adds_first else d_gate
            if self._bfloat16:  # a sum of gradients is no product: it stays in float32
                multiply(d_gate.T, x, out=d_weight_ih[gate], bfloat16=True)
                multiply(np.ones((1, len(d_gate)), d_gate.dtype), d_gate, out=d_bias_ih[gate][None])
            else:
                d_affine = multiply(d_gate.T, x)
                d_weight_ih[gate], d_bias_ih[gate] = d_affine[:, :width], d_affine[:, width]
            if gate not in self._kind.separate_biases:
                d_bias_hh[gate] = d_bias_ih[gate]
            if need_input:
                multiply(d_gate, weight_ih[gate], out=d_x, add=gate > 0, bfloat16=self._bfloat16)
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


def _with_column(x: np.ndarray, column: np.ndarray | float) -> np.ndarray:
    """Return `x` [U,E] with `column` appended, and zeros up to a multiple of 16 columns (a cache line)."""
    count, width = x.shape
    wider = np.zeros((count, -(-(width + 1) // 16) * 16), x.dtype)
    wider[:, :width], wider[:, width] = x, column
    return wider


def add_rows(receivers: Sequence[np.ndarray], products: np.ndarray, rows: slice | np.ndarray) -> None:
    """Add the rows `rows` of `products` [G,m,D] to the receivers, [n,D] each."""
    for receiver, product in zip(receivers, products, strict=True):
        receiver += product[rows]


def _shifted(part: slice, start: int) -> slice:
    return slice(part.start + start, part.stop + start)
