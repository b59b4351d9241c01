"""BERT's layers on the CPU; with their gradients they are one node of autograd.

Each thread takes its own sequences through all layers, and later back through each, in blocks whose rows stay
in the cache from one operation to the next. No thread waits for another between two operations, as it would
if each operation were shared among threads.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.autograd import PyLayer

from config.machine.threads import for_each
from models.kernels.choice import chosen
from models.kernels.precision import is_lowered
from models.kernels.products import PackedMatrices, multiply_on_one_thread
from models.kernels.row_blocks import array_of, equal_parts, row_blocks
from models.layers.bert.row_plan import Block, RowPlan
from models.layers.bert.run_attention import attend, attend_back
from models.layers.fused import (
    dropout_mask,
    dropout_seed,
    standardise,
    unless_frozen,
    write_gelu,
)

PARTS = ("query", "key_value", "attended", "attended_norm", "widen", "narrow", "norm")  # of a `BertLayer`
NORMS = {"attended": "attended_norm", "narrow": "norm"}  # the layer norms that follow linear maps
Matrix = np.ndarray | PackedMatrices  # [I,O], or that matrix packed
# So many rows are worth packing matrices of float32, which passes over each of them once.
_PACKED_FROM = 2048


def asked_rows(
    layers: Sequence[nn.Layer],
    rows: Tensor,
    query: Tensor,
    key_value: Tensor,
    origin: np.ndarray | None,
    plan: RowPlan,
) -> Tensor:
    """Return the rows [M,D] after all `layers` that `plan` asks for.

    The p-th row in the plan's order is row `origin[p]` (`origin` [P]) of `rows` [U,D], or row p without
    `origin`. `query` [U,D] and `key_value` [U,2D] are the products of `rows` with the first layer's matrices,
    without biases.
    """
    first, inputs = layers[0], (rows, query, key_value)
    shares = (first.attention_dropout, first.norm.dropout) if first.training else (0.0, 0.0)
    dropout = Dropout(*shares, dropout_seed() if any(shares) else 0)
    inference = not paddle.is_grad_enabled()
    packs = inference and len(plan.origin) >= _PACKED_FROM and chosen().packed == "onednn"
    weights = [_Weights(layer, packs) for layer in layers]
    if inference:
        arrays = [array_of(tensor) for tensor in inputs]
        return paddle.from_dlpack(_forward(weights, arrays, origin, plan, dropout))
    if origin is not None:
        inputs = [tensor.gather(paddle.to_tensor(origin)) for tensor in inputs]
    parameters = [
        getattr(getattr(layer, part), name)
        for number, layer in enumerate(layers)
        for part, name in parameters_of(number)
    ]
    return _Layers.apply(*inputs, *parameters, weights, plan, dropout)


def parameters_of(number: int) -> list[tuple[str, str]]:
    """Return part and name of the parameters of layer `number`; the first one is given its first products."""
    of_products = [] if number else [("query", "weight"), ("key_value", "weight")]
    names = [(part, name) for part in PARTS for name in ("weight", "bias")]
    return [name for name in names if name not in of_products]


@dataclass(frozen=True)
class Dropout:
    """The shares of attention's weights and of the rows' numbers that are dropped, and the masks' seed."""

    attention: float
    rows: float
    seed: int

    def factors(self, share: float, shape: tuple[int, ...], place: tuple[int, ...]) -> np.ndarray | None:
        """Return 0 or 1 / (1 - share) of `shape`, by the seed and the `place`; None where nothing drops."""
        if not share:
            return None
        (seed,) = np.random.SeedSequence([self.seed, *place]).generate_state(1)
        return dropout_mask(shape, share, int(seed)) * np.float32(1 / (1 - share))


class _Layers(PyLayer):
    @staticmethod
    def forward(ctx, rows, query, key_value, *others):
        *parameters, weights, plan, dropout = others
        ctx.frozen = tuple(tensor.stop_gradient for tensor in (rows, query, key_value, *parameters))
        inputs = [array_of(tensor) for tensor in (rows, query, key_value)]
        steps: list[list[_Step]] = [[] for _ in plan.blocks]
        found = _forward(weights, inputs, None, plan, dropout, steps)
        ctx.saved = weights, plan, steps, [array.shape for array in inputs]
        return paddle.from_dlpack(found)

    @staticmethod
    def backward(ctx, d_found):
        weights, plan, steps, shapes = ctx.saved
        d_found = array_of(d_found)
        d_inputs = [np.empty(shape, d_found.dtype) for shape in shapes]
        d_rows = [d_found[plan.places[block.places]] for block in plan.blocks]
        parts, gradients = equal_parts(len(plan.blocks)), []
        for layer in reversed(range(len(weights))):
            here = weights.pop()
            here.turn()
            # A thread adds up the gradients of its own blocks, in their order, whichever thread is faster.
            sums = [_Sums(here.lowered) for _ in parts]

            def work(part: int, layer: int = layer, sums: list[_Sums] = sums) -> None:
                for number in range(parts[part].start, parts[part].stop):
                    step = steps[number].pop()
                    if layer:
                        d_rows[number] = step.backward(d_rows[number], sums[part])
                        continue
                    rows = plan.blocks[number].rows
                    d_first = step.backward_first(d_rows[number], sums[part])
                    for d_input, d_part in zip(d_inputs, d_first, strict=True):
                        d_input[rows] = d_part

            for_each(work, range(len(parts)))
            for other in sums[1:]:
                sums[0].add_all(other)
            gradients = [sums[0].found[parameter] for parameter in parameters_of(layer)] + gradients
        return unless_frozen(ctx.frozen, *d_inputs, *gradients)


def _forward(
    weights: Sequence["_Weights"],
    inputs: Sequence[np.ndarray],
    origin: np.ndarray | None,
    plan: RowPlan,
    dropout: Dropout,
    steps: list[list["_Step"]] | None = None,
) -> np.ndarray:
    """Return what `asked_rows` does; add to `steps` what each block's gradients need."""
    found = np.empty((len(plan.places), inputs[0].shape[1]), inputs[0].dtype)

    def work(number: int) -> None:
        block = plan.blocks[number]
        rows = block.rows if origin is None else origin[block.rows]
        x, *products = (array[rows] for array in inputs)
        for place, layer in enumerate(weights):
            step = _Step(layer, block, place == len(weights) - 1, dropout, (place, number), steps is not None)
            x = step.forward(x, *(products if place == 0 else (None, None)))
            if steps is not None:
                steps[number].append(step)
        found[plan.places[block.places]] = x

    for_each(work, range(len(plan.blocks)))
    return found


class _Weights:
    """A layer's matrices, biases and norms by part, as arrays that share the memory of its tensors.

    Where layers multiply in bfloat16, the matrices are packed, and their transposes at `turn`; with `packs`,
    matrices of float32 are, too.
    """

    def __init__(self, layer: nn.Layer, packs: bool) -> None:
        parts = {name: getattr(layer, name) for name in PARTS}
        weights = {name: array_of(part.weight) for name, part in parts.items()}
        self.biases = {name: array_of(part.bias) for name, part in parts.items()}
        self.norms = {name: weights.pop(name) for name in NORMS.values()}
        self.heads, self.epsilon = layer.num_heads, layer.norm.epsilon
        self.scale = np.float32(1 / math.sqrt(len(self.biases["query"]) // self.heads))
        self.lowered, self._plain = is_lowered(), weights
        self._packs = packs or self.lowered
        self.matrices = {name: self._ready(matrix) for name, matrix in weights.items()}
        self.transposes: dict[str, Matrix] = {}

    def turn(self) -> None:
        """Make the transposes, in place of the matrices, for the way back."""
        self.transposes = {name: self._ready(matrix.T) for name, matrix in self._plain.items()}
        self.matrices = {}

    def _ready(self, matrix: np.ndarray) -> Matrix:
        return PackedMatrices(matrix[None], bfloat16=self.lowered) if self._packs else matrix


def product(rows: np.ndarray, matrix: Matrix, out: np.ndarray | None = None) -> np.ndarray:
    """Return `rows` [N,I] times a `matrix` [I,O], on the calling thread; it is added to `out`, if given."""
    if not isinstance(matrix, PackedMatrices):
        return multiply_on_one_thread(rows, matrix, out, add=out is not None)
    if out is None:
        return matrix.multiply_on_one_thread(rows)[0]
    matrix.add_on_one_thread(rows, out[None])
    return out


class _Sums:
    """Gradients of a layer's parameters, by part and name, to which blocks add theirs."""

    def __init__(self, lowered: bool) -> None:
        self._lowered = lowered
        self.found: dict[tuple[str, str], np.ndarray] = {}

    def add(self, part: str, name: str, gradient: np.ndarray) -> None:
        if (part, name) in self.found:
            self.found[part, name] += gradient
        else:
            self.found[part, name] = gradient

    def add_weight(self, part: str, inputs: np.ndarray, d_outputs: np.ndarray) -> None:
        """Add the gradient of the matrix of a linear map of `inputs` [N,I] to [N,O]."""
        key = part, "weight"
        self.found[key] = multiply_on_one_thread(
            inputs.T, d_outputs, self.found.get(key), add=key in self.found, bfloat16=self._lowered
        )

    def add_map(self, part: str, inputs: np.ndarray, d_outputs: np.ndarray) -> None:
        """Add the gradients of the matrix and the bias of a linear map of `inputs` [N,I] to [N,O]."""
        self.add_weight(part, inputs, d_outputs)
        self.add(part, "bias", d_outputs.sum(axis=0))

    def add_all(self, other: "_Sums") -> None:
        for (part, name), gradient in other.found.items():
            self.add(part, name, gradient)


class _Step:
    """A layer's work on a block of N rows, of which A ask: all of them but in the last layer."""

    def __init__(
        self,
        weights: _Weights,
        block: Block,
        is_last: bool,
        dropout: Dropout,
        place: tuple[int, int],
        keeps: bool,
    ) -> None:
        self._weights, self._runs = weights, block.asked_runs if is_last else block.runs
        self._asked = block.asked if is_last else None
        self._dropout, self._place, self._keeps = dropout, place, keeps

    def forward(self, rows: np.ndarray, query: np.ndarray | None, key_value: np.ndarray | None) -> np.ndarray:
        """Return the layer's output [A,D] for `rows` [N,D].

        `query` and `key_value` are the products of the rows with the layer's matrices, if they are there.
        """
        weights = self._weights
        self._rows = rows
        self._asking = rows if self._asked is None else rows[self._asked]
        if query is None:
            query = product(self._asking, weights.matrices["query"])
            key_value = product(rows, weights.matrices["key_value"])
        else:
            query = query if self._asked is None else query[self._asked]
            key_value = key_value.copy()
        self._query = query + weights.biases["query"]
        self._query *= weights.scale
        # A bias of the keys adds the same number to all scores of a query, which softmax ignores.
        key_value[:, query.shape[1] :] += weights.biases["key_value"][query.shape[1] :]
        self._key_value = key_value
        self._context, self._softmax = attend(
            self._query, key_value, self._runs, weights.heads, self._attention_factors
        )
        middle, self._after_attention = self._normalise(self._context, "attended", self._asking, 1)
        self._middle = middle
        matrix, bias = weights.matrices["widen"], weights.biases["widen"]
        if not self._keeps and isinstance(matrix, PackedMatrices) and matrix.fuses_gelu:
            self._inner = matrix.gelu_on_one_thread(middle, bias)
        else:
            self._inner = inner = product(middle, matrix)
            self._slope = slope = np.empty_like(inner) if self._keeps else None
            for part in row_blocks(len(inner), 2 * inner[:1].nbytes):  # which stay in the cache at any width
                write_gelu(inner[part], bias, None if slope is None else slope[part])
        new, self._after_inner = self._normalise(self._inner, "narrow", middle, 2)
        return new

    def backward(self, d_new: np.ndarray, sums: _Sums) -> np.ndarray:
        """Return the gradient [N,D] of the rows, given that [A,D] of the output."""
        d_asking, d_query, d_key_value = self._step_back(d_new, sums)
        weights = self._weights
        sums.add_weight("query", self._asking, d_query)
        sums.add_weight("key_value", self._rows, d_key_value)
        product(d_query, weights.transposes["query"], d_asking)
        if self._asked is None:
            return product(d_key_value, weights.transposes["key_value"], d_asking)
        d_rows = product(d_key_value, weights.transposes["key_value"])
        np.add.at(d_rows, self._asked, d_asking)
        return d_rows

    def backward_first(self, d_new: np.ndarray, sums: _Sums) -> list[np.ndarray]:
        """Return the gradients of what `forward` was given: [N,D], [N,D] and [N,2D]."""
        d_asking, d_query, d_key_value = self._step_back(d_new, sums)
        if self._asked is None:
            return [d_asking, d_query, d_key_value]
        spread = []
        for gradient in (d_asking, d_query):
            spread.append(np.zeros((len(self._rows), gradient.shape[1]), gradient.dtype))
            np.add.at(spread[-1], self._asked, gradient)
        return [*spread, d_key_value]

    def _step_back(self, d_new: np.ndarray, sums: _Sums) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the gradients of the rows that ask, past attention, of queries, and of keys and values."""
        weights = self._weights
        d_middle, d_narrowed = self._normalise_back(d_new, self._after_inner, "norm", sums)
        sums.add_map("narrow", self._inner, d_narrowed)
        d_inner = product(d_narrowed, weights.transposes["narrow"])
        d_inner *= self._slope
        sums.add_map("widen", self._middle, d_inner)
        product(d_inner, weights.transposes["widen"], d_middle)
        d_asking, d_attended = self._normalise_back(d_middle, self._after_attention, "attended_norm", sums)
        sums.add_map("attended", self._context, d_attended)
        d_context = product(d_attended, weights.transposes["attended"])
        kept = self._query, self._key_value, self._runs, weights.heads, self._softmax
        d_query, d_key_value = attend_back(d_context, *kept)
        d_query *= weights.scale
        sums.add("query", "bias", d_query.sum(axis=0))
        d_bias = d_key_value.sum(axis=0)
        d_bias[: d_query.shape[1]] = 0  # exactly, without the rounding of the sum
        sums.add("key_value", "bias", d_bias)
        return d_asking, d_query, d_key_value

    def _normalise(
        self, inputs: np.ndarray, part: str, residual: np.ndarray, number: int
    ) -> tuple[np.ndarray, tuple]:
        """Return LN(dropout(linear(inputs)) + residual), linear being `part`, and what its gradient needs."""
        weights, norm = self._weights, NORMS[part]
        matrix, bias = weights.matrices[part], weights.biases[part]
        x = np.add(residual, bias)
        factors = self._dropout.factors(self._dropout.rows, x.shape, (*self._place, number))
        if factors is None:
            product(inputs, matrix, x)
        else:
            np.multiply(product(inputs, matrix) + bias, factors, out=x)
            x += residual
        inverse, normalised = np.empty((len(x), 1), x.dtype), np.empty_like(x)
        for rows in row_blocks(len(x), 2 * x[:1].nbytes):
            inverse[rows] = standardise(x[rows], weights.epsilon)
            np.multiply(x[rows], weights.norms[norm], out=normalised[rows])
            normalised[rows] += weights.biases[norm]
        return normalised, (x, inverse, factors)

    def _normalise_back(
        self, d_normalised: np.ndarray, kept: tuple, name: str, sums: _Sums
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the gradients of the residual and of the linear map's result; they may be one array."""
        x, inverse, factors = kept
        sums.add(name, "weight", np.einsum("nd,nd->d", x, d_normalised))
        sums.add(name, "bias", d_normalised.sum(axis=0))
        d_sum = d_normalised * self._weights.norms[name]
        along = np.einsum("nd,nd->n", x, d_sum)[:, None] / x.shape[1]
        d_sum -= np.einsum("nd->n", d_sum)[:, None] / x.shape[1]
        d_sum -= np.multiply(x, along, out=x)
        d_sum *= inverse
        return d_sum, d_sum if factors is None else d_sum * factors

    def _attention_factors(self, shape: tuple[int, ...], run: int) -> np.ndarray | None:
        return self._dropout.factors(self._dropout.attention, shape, (*self._place, 0, run))
