"""GRU and LSTM over levels of rows, forward and backward, in NumPy: the recurrent layer of the CPU.

A level holds sequences at the same step; each of its rows continues a row of the level before. A block of
rows stays in the cache from its product through all of a step's element-wise operations, which is some ten
times faster than one operation of Paddle's after another. Each gate is an array of its own, [G,n,D]: NumPy
is two to four times slower on a part of the columns. `models/kernels/products.py` has the products.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.kernels.products import RepeatedFactors, multiply
from models.kernels.row_blocks import for_each, row_blocks

Rows = np.ndarray | None  # row numbers; None: one after another

_ALIKE = 0.7  # so many different inputs a row, and fewer, are added up before they are multiplied


class GRUSteps:
    """The element-wise part of a GRU for n rows of a level; gates in the order r, z, n.

    `forward` leaves what `backward` needs: r, z and n in `gates` [3,n,D], U_n h + c_n in `hidden_n` [n,D].
    """

    num_gates, has_memory, adds_products, passes_state = 3, False, False, True
    differ = (2,)  # gates whose two biases have different gradients
    scales = 0.5, 0.5, 1.0  # of what comes before a gate's tanh: the logistic function is (1 + tanh(x/2)) / 2

    @staticmethod
    def input_bias(bias_ih: np.ndarray, bias_hh: np.ndarray) -> np.ndarray:
        """Return what is added to W x [3,D]: both biases, but for n, where r scales the hidden one."""
        return np.stack([bias_ih[0] + bias_hh[0], bias_ih[1] + bias_hh[1], bias_ih[2]])

    def forward(
        self,
        inputs: np.ndarray,
        hidden: np.ndarray,
        bias_hh: np.ndarray,
        before: np.ndarray,
        memory: None,
        state: np.ndarray,
        new_memory: None,
    ) -> None:
        """Make the next `state` [n,D] of h, in `before`, and scaled W x [3,n,D] and U h [3,n or 1,D]."""
        self.gates, self.hidden_n = np.empty(inputs.shape, inputs.dtype), np.empty(state.shape, state.dtype)
        np.add(hidden[2], bias_hh[2], out=self.hidden_n)
        r, z, n = self.gates
        reset_update = np.add(inputs[:2], hidden[:2], out=self.gates[:2])
        _to_logistic(np.tanh(reset_update, out=reset_update))
        np.multiply(r, self.hidden_n, out=n)
        n += inputs[2]
        np.tanh(n, out=n)
        np.subtract(before, n, out=state)
        state *= z
        state += n

    def backward(
        self, before: np.ndarray, memory: None, d_state: np.ndarray, d_memory: None, d_gates: np.ndarray
    ) -> None:
        """Write the gradients of U h + c to `d_gates` [3,n,D].

        `d_state` [n,D] becomes the gradient that reaches h beside the product. That of n's W x replaces
        `hidden_n`; r's and z's are the same as those of U h.
        """
        (r, z, n), hidden_n = self.gates, self.hidden_n
        d_r, d_z, d_n = d_gates
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
        """Make the gradients of W x [3,n,D] of those of U h + c."""
        d_hidden[2] = self.hidden_n


class LSTMSteps:
    """The element-wise part of an LSTM for n rows of a level; gates in the order i, f, g, o.

    `forward` leaves what `backward` needs: `gates` [4,n,D], h in `state` and tanh(c) in `shown`, [n,D].
    """

    num_gates, has_memory, adds_products, passes_state = 4, True, True, False
    differ = ()
    scales = 0.5, 0.5, 1.0, 0.5  # as in a GRU

    @staticmethod
    def input_bias(bias_ih: np.ndarray, bias_hh: np.ndarray) -> np.ndarray:
        """Return what is added to W x [4,D]: both biases."""
        return bias_ih + bias_hh

    def forward(
        self,
        inputs: np.ndarray,
        hidden: np.ndarray | None,
        bias_hh: np.ndarray,
        before: np.ndarray,
        memory: np.ndarray,
        state: np.ndarray,
        new_memory: np.ndarray,
    ) -> None:
        """Make the next state and cell [n,D] of the old cell, and scaled W x [4,n,D] and U h [4,n or 1,D].

        `hidden` may be None, and be part of `inputs`, whose place the gates take.
        """
        self.gates = gates = inputs if hidden is None else np.add(inputs, hidden, out=inputs)
        np.tanh(gates, out=gates)
        _to_logistic(gates[:2])
        _to_logistic(gates[3])
        i, f, g, o = gates
        np.multiply(f, memory, out=new_memory)
        new_memory += np.multiply(i, g, out=state)
        self.state, self.shown = state, np.tanh(new_memory)
        np.multiply(o, self.shown, out=state)

    def backward(
        self,
        before: np.ndarray,
        memory: np.ndarray,
        d_state: np.ndarray,
        d_memory: np.ndarray,
        d_gates: np.ndarray,
    ) -> None:
        """Write the gradients of W x and of U h to `d_gates` [4,n,D].

        `d_memory` [n,D], the gradient of the cell, becomes that of the cell before. Nothing reaches h beside
        the product.
        """
        i, f, g, o = self.gates
        np.subtract(1, self.gates, out=d_gates)
        d_i, d_f, d_g, d_o = d_gates
        slope = self.state * self.shown
        np.subtract(o, slope, out=slope)  # o (1 - tanh(c)^2)
        slope *= d_state
        d_memory += slope
        d_o *= self.state
        d_o *= d_state
        d_g *= np.add(1, g, out=slope)
        for d_gate, slope_left, factor in ((d_i, i, g), (d_f, f, memory), (d_g, i, None)):
            d_gate *= slope_left
            if factor is not None:
                d_gate *= factor
            d_gate *= d_memory
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
        self._first = first
        start = np.cumsum(counts) - counts
        self._several = [
            (group, slice(start[group], start[group] + counts[group]))
            for group in np.flatnonzero(counts > 1).tolist()
        ]

    def sum(self, x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return the sums [m,D] of the rows of `x` [N,D] by group, in `out` where given."""
        sums = np.take(x, self._first, axis=0, out=out, mode="clip")
        for group, part in self._several:  # `reduceat` takes ten times as long
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

    @property
    def num_products(self) -> int:
        """How many different rows are continued: m."""
        return self.size if self.parents is None else len(self.parents.of)

    def continued(self, before: np.ndarray) -> np.ndarray:
        """Return the different rows [m,D] of the level before that are continued."""
        return before[: self.size] if self.parents is None else before[self.parents.of]

    def parent_of(self, part: slice) -> slice | np.ndarray:
        """Return the rows of the level before that a part continues."""
        return part if self.parents is None else self.parents.of[self.parents.member[part]]

    def product_of(self, part: slice) -> slice | np.ndarray:
        """Return which of the products serve a part."""
        return part if self.parents is None else self.parents.member[part]

    @property
    def all_differ(self) -> bool:
        """Whether no two rows continue the same one."""
        return self.num_products == self.size

    def multiply(self, part: slice, before: np.ndarray, factors: RepeatedFactors) -> np.ndarray:
        """Return the products [G,n,D] of what the rows of a part continue, on the calling thread alone."""
        if self.all_differ:
            return factors.multiply_on_one_thread(before[self.parent_of(part)])
        different, product_of = np.unique(self.parents.member[part], return_inverse=True)
        products = factors.multiply_on_one_thread(before[self.parents.of[different]])
        return products if len(different) == len(product_of) else products[:, product_of.reshape(-1)]

    def sum(self, x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return `x` [n,D] summed over the rows that continue the same one: [m,D], in `out` where given."""
        if self.parents is not None:
            return self.parents.sum(x, out)
        return x if out is None else np.copyto(out, x) or out

    def spread(self, sums: np.ndarray, count: int) -> np.ndarray:
        """Return `sums` [m,D] as the rows [count,D] of the level before, zero where nothing continues it."""
        if self.parents is None and count == len(sums):
            return sums
        rows = np.zeros((count, sums.shape[1]), sums.dtype)
        rows[slice(len(sums)) if self.parents is None else self.parents.of] = sums
        return rows


class Recurrence:
    """One recurrent layer over levels: level t is the rows `starts[t]` to `starts[t + 1]` of P.

    `parents[t]`, rising, are the rows of level t - 1 (counted from 0 there) that those of level t continue;
    None: its first rows, in order (level 0 continues nothing). The input of row p is row `input_row[p]` of x,
    or p. Weights have PyTorch's and Paddle's layout: `weight_ih` [G*D,E], `weight_hh` [G*D,D], biases
    [G*D].
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
        self._by_gate = [self._gates(weight) for weight in weights]
        self._levels = [
            Level(start, end, None if rows is None else Groups(rows))
            for start, end, rows in zip(starts[:-1], starts[1:], parents, strict=True)
        ]

    def forward(self, x: np.ndarray, learning: bool) -> np.ndarray:
        """Return the states [P,D] of x [U,E]; `learning` keeps what `backward` needs."""
        _, weight_hh, _, bias_hh = self._by_gate
        factors = RepeatedFactors(weight_hh.transpose(0, 2, 1), self._kind.scales)
        projected = self._project(x)
        states = np.empty((self._levels[-1].end, weight_hh.shape[2]), x.dtype)
        before = memory = np.zeros((self._levels[0].size, weight_hh.shape[2]), x.dtype)
        nothing = np.zeros((len(bias_hh), 1, 1), x.dtype)  # the products of a state of zeros
        steps, memories = [], []
        row_bytes = projected[:, 0].nbytes // (1 if learning else 2)  # nothing is kept for `backward`
        for level in self._levels:
            tasks = [(part, self._kind()) for part in row_blocks(level.size, row_bytes)]
            products = None  # of a large level, each block makes its own and has them in the cache
            if level.start and len(tasks) == 1:
                products = factors.multiply(level.continued(before))
            new_memory = np.empty((level.size, states.shape[1]), x.dtype) if self._kind.has_memory else None

            def step(
                task: tuple[slice, GRUSteps | LSTMSteps],
                level: Level = level,
                products: np.ndarray | None = products,
                before: np.ndarray = before,
                memory: np.ndarray | None = memory,
                new_memory: np.ndarray | None = new_memory,
            ) -> None:
                part, kind = task
                here, parent = _shifted(part, level.start), level.parent_of(part)
                inputs = projected[:, here if self._input_row is None else self._input_row[here]]
                hidden = None
                if not level.start:
                    hidden = nothing
                elif products is not None:
                    hidden = products[:, level.product_of(part)]
                elif kind.adds_products and level.all_differ:
                    factors.add_on_one_thread(before[parent], inputs)
                else:
                    hidden = level.multiply(part, before, factors)
                old, new = (memory[parent], new_memory[part]) if kind.has_memory else (None, None)
                kind.forward(inputs, hidden, bias_hh, before[parent], old, states[here], new)

            for_each(step, tasks)
            before, memory = states[level.start : level.end], new_memory
            if learning:
                steps.append(tasks)
                memories.append(memory)
        if learning:
            self._x, self._states, self._steps, self._memories = x, states, steps, memories
        return states

    def backward(self, d_states: np.ndarray, need_input: bool) -> tuple[np.ndarray | None, ...]:
        """Return the gradients of x (None unless `need_input`) and of the four weights."""
        d_hidden = np.empty((self._kind.num_gates, *d_states.shape), d_states.dtype)  # [G,P,D]
        factors = RepeatedFactors(self._by_gate[1])
        num_products = sum(level.num_products for level in self._levels[1:])
        shared = any(level.parents is not None for level in self._levels[1:])
        d_products = d_hidden[:, self._levels[0].end :]  # as long as each row has a product of its own
        if shared:
            d_products = np.empty((len(d_hidden), num_products, d_states.shape[1]), d_states.dtype)
        continued = np.empty(d_products.shape[1:], d_states.dtype)
        d_state, d_memory = np.zeros((2, self._levels[-1].size, d_states.shape[1]), d_states.dtype)
        for number in reversed(range(len(self._levels))):
            level = self._levels[number]
            rows = slice(level.start, level.end)
            d_state += d_states[rows]
            d_before = None
            if number and level.parents is None and len(self._steps[number]) > 1:
                d_before = np.empty_like(d_state)
            self._step_back(number, d_state, d_memory, d_hidden[:, rows], factors, d_before)
            if number == 0:
                break
            before = self._states[self._levels[number - 1].start : level.start]
            products = slice(num_products - level.num_products, num_products)
            num_products = products.start
            continued[products] = level.continued(before)
            if shared:
                for d_gate, d_product in zip(d_hidden[:, rows], d_products[:, products], strict=True):
                    level.sum(d_gate, out=d_product)
            if d_before is None:
                d_before = factors.sum_products(d_products[:, products])
                if self._kind.passes_state:
                    d_before += level.sum(d_state)
            d_state = level.spread(d_before, len(before))
            if self._kind.has_memory:
                d_memory = level.spread(level.sum(d_memory), len(before))
        return self._weight_gradients(d_hidden, d_products, continued, need_input)

    def _step_back(
        self,
        number: int,
        d_state: np.ndarray,
        d_memory: np.ndarray,
        d_hidden: np.ndarray,
        factors: RepeatedFactors,
        d_before: np.ndarray | None,
    ) -> None:
        """Write the gradients of a level's products to `d_hidden`, those of what it continues in place.

        `d_before`, if given, takes those of the states that it continues, while their parts are in the cache.
        """
        level = self._levels[number]
        if number:
            before = self._states[self._levels[number - 1].start : level.start]
            memory = self._memories[number - 1]
        else:
            before = memory = np.zeros_like(d_state)

        def step(task: tuple[slice, GRUSteps | LSTMSteps]) -> None:
            part, kind = task
            parent = level.parent_of(part)
            old, d_old = (memory[parent], d_memory[part]) if kind.has_memory else (None, None)
            kind.backward(before[parent], old, d_state[part], d_old, d_hidden[:, part])
            if d_before is not None:
                factors.sum_products_on_one_thread(d_hidden[:, part], d_before[part])
                if kind.passes_state:
                    d_before[part] += d_state[part]

        for_each(step, self._steps[number])

    def _weight_gradients(
        self, d_hidden: np.ndarray, d_products: np.ndarray, continued: np.ndarray, need_input: bool
    ) -> tuple[np.ndarray | None, ...]:
        """Return what `backward` does.

        d_hidden: of U h + c [G,P,D]. d_products: of the products [G,M,D]; continued: what they are of [M,D].
        """
        weight_ih = self._by_gate[0]
        grads = [np.empty_like(weight) for weight in self._weights]
        d_weight_ih, d_weight_hh, d_bias_ih, d_bias_hh = map(self._gates, grads)
        for gate, d_product in enumerate(d_products):
            multiply(d_product.T, continued, out=d_weight_hh[gate])
        ones = np.ones((1, d_hidden.shape[1]), d_hidden.dtype)
        for gate in self._kind.differ:  # a product, since `sum` adds row to row, and rounds more
            multiply(ones, d_hidden[gate], out=d_bias_hh[gate][None])
        for level, tasks in zip(self._levels, self._steps, strict=True):
            for part, kind in tasks:
                kind.turn_to_inputs(d_hidden[:, _shifted(part, level.start)])
        # Every row of x is some row's input. Few alike are quicker multiplied twice than added up.
        inputs = None if self._input_row is None else Groups(self._input_row)
        adds_first = inputs is not None and len(self._x) < _ALIKE * d_hidden.shape[1]
        own = self._x if inputs is None or adds_first else self._x[self._input_row]
        width, x = own.shape[1], _with_column(own, 1)
        d_x = np.empty_like(own) if need_input else None
        for gate, d_gate in enumerate(d_hidden):
            d_gate = inputs.sum(d_gate) if adds_first else d_gate
            d_affine = multiply(d_gate.T, x)
            d_weight_ih[gate], d_bias_ih[gate] = d_affine[:, :width], d_affine[:, width]
            if gate not in self._kind.differ:
                d_bias_hh[gate] = d_bias_ih[gate]
            if need_input:
                multiply(d_gate, weight_ih[gate], out=d_x, add=gate > 0)
        if need_input and own is not self._x:
            d_x = inputs.sum(d_x)
        return d_x, *grads

    def _project(self, x: np.ndarray) -> np.ndarray:
        """Return W x with its bias, scaled, of every gate: [G,U,D]."""
        weight_ih, _, *biases = self._by_gate
        bias = self._kind.input_bias(*biases)
        x, projected = _with_column(x, 1), np.empty((len(bias), len(x), bias.shape[1]), x.dtype)
        for gate, scale in enumerate(self._kind.scales):
            affine = _with_column(weight_ih[gate], bias[gate])
            multiply(x, affine.T, out=projected[gate], scale=scale)
        return projected

    def _gates(self, x: np.ndarray) -> np.ndarray:
        """Return a weight or bias [G*D,...] as [G,D,...], the same memory."""
        return x.reshape(self._kind.num_gates, -1, *x.shape[1:])


def _to_logistic(x: np.ndarray) -> None:
    """Make of tanh(x / 2) the logistic function of x."""
    x *= 0.5
    x += 0.5


def _tanh_slope(y: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Return the slope 1 - y^2 of tanh where its value is `y`."""
    np.multiply(y, y, out=out)
    return np.subtract(1, out, out=out)


def _with_column(x: np.ndarray, column: np.ndarray | float) -> np.ndarray:
    """Return `x` [U,E] with one more column, and columns of zeros up to a whole line of the cache."""
    count, width = x.shape
    wider = np.zeros((count, -(-(width + 1) // 16) * 16), x.dtype)
    wider[:, :width], wider[:, width] = x, column
    return wider


def _shifted(part: slice, start: int) -> slice:
    return slice(part.start + start, part.stop + start)
