"""A GRU that reads words and what it attends to, over all steps at once: VSRN's caption decoder on the CPU.

What the decoder reads at a step depends on its state, so the steps follow one another. But the words' part of
the gates and the gradients of all weights are one product each for all steps, and each thread takes its own
captions from the first step to the last.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.autograd import PyLayer

from config.machine.threads import for_each
from models.kernels.precision import is_lowered
from models.kernels.products import PackedMatrices, multiply
from models.kernels.recurrent.steps import GRUSteps
from models.kernels.row_blocks import array_of, equal_parts
from models.layers.additive_attention import attend, attend_back


def attentive_states(
    cell: nn.GRUCell,
    words: Tensor,
    first: Tensor,
    memory: Sequence[Tensor],
    attend_weights: Sequence[Tensor],
    starts: Sequence[int],
    keep: Tensor | None = None,
) -> Tensor:
    """Return the states [W,H] of `cell` after it has read each of `words` [W,E], step by step.

    Step s is the rows `starts[s]` to `starts[s + 1]`: those of the first captions, which never become more.
    `first` [B,H] is the state before step 0. At each step the cell reads the word, and what
    `additive_attention` returns for the query h Q, of its state h. `memory` holds the attention's values,
    keys and mask, and `attend_weights` Q [H,K] and the attention's weight [K]. `keep` [W,E+H], if given, are
    factors of what is read, as dropout has them.
    """
    weights = cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh
    factors = None if keep is None else array_of(keep)
    needs_grad = paddle.is_grad_enabled()
    return _States.apply(words, first, *memory, *attend_weights, *weights, list(starts), factors, needs_grad)


class _States(PyLayer):
    @staticmethod
    def forward(ctx, *arguments):
        *tensors, starts, factors, needs_grad = arguments
        ctx.frozen = [tensor.stop_gradient for tensor in tensors]
        ctx.decoding = _Decoding([array_of(tensor) for tensor in tensors], starts, factors, is_lowered())
        return paddle.from_dlpack(ctx.decoding.forward(needs_grad))

    @staticmethod
    def backward(ctx, d_states):
        gradients = ctx.decoding.backward(array_of(d_states))
        return tuple(
            None if frozen or gradient is None else paddle.from_dlpack(gradient)
            for frozen, gradient in zip(ctx.frozen, gradients, strict=True)
        )


class _Decoding:
    """`attentive_states` in NumPy, forward and backward; `arrays` are the tensors of `_States`, in order."""

    def __init__(
        self, arrays: list[np.ndarray], starts: list[int], keep: np.ndarray | None, bfloat16: bool
    ) -> None:
        self._words, self._first, self._values, self._keys, self._mask, *weights = arrays
        self._query_weight, self._key_weight, *of_cell = weights
        self._by_gate = [x.reshape(GRUSteps.num_gates, -1, *x.shape[1:]) for x in of_cell]
        self._starts, self._bfloat16 = starts, bfloat16
        self._word_dim = self._words.shape[1]
        self._keep_word = self._keep_context = None
        if keep is not None:
            self._keep_word, self._keep_context = keep[:, : self._word_dim], keep[:, self._word_dim :]
            self._words = self._words * self._keep_word

    def forward(self, needs_grad: bool) -> np.ndarray:
        """Return the states [W,H]; with `needs_grad`, store what `backward` needs."""
        weight_ih, weight_hh, bias_ih, bias_hh = self._by_gate
        bias = GRUSteps.input_bias(bias_ih, bias_hh)
        inputs = np.empty((len(bias), len(self._words), bias.shape[1]), bias.dtype)
        for gate, scale in enumerate(GRUSteps.scales):
            inputs[gate] = scale * bias[gate]
            weight = weight_ih[gate][:, : self._word_dim].T
            multiply(self._words, np.float32(scale) * weight, inputs[gate], add=True, bfloat16=self._bfloat16)
        of_state = self._packed(weight_hh.transpose(0, 2, 1), GRUSteps.scales)
        of_context = self._packed(weight_ih[:, :, self._word_dim :].transpose(0, 2, 1), GRUSteps.scales)
        of_query = self._packed(self._query_weight[None])
        rows, (images, regions) = len(self._words), self._mask.shape
        self._states, self._contexts = np.empty((2, rows, bias.shape[1]), bias.dtype)
        self._queries = np.empty((rows, self._query_weight.shape[1]), bias.dtype)
        self._attention = np.empty((rows, regions), bias.dtype)
        self._steps: dict[tuple[int, int], GRUSteps] = {}  # of a part and a step

        def decode(part: slice) -> None:
            for number, captions, at, previous in self._rows_of(part):
                query, context = self._queries[at], self._contexts[at]
                query[:] = of_query.multiply_on_one_thread(previous)[0]
                of_captions = [x[captions] for x in (self._keys, self._values, self._mask)]
                attend(query, *of_captions, self._key_weight, self._attention[at], context)
                if self._keep_context is not None:
                    context *= self._keep_context[at]
                kind = GRUSteps()
                of_context.add_on_one_thread(context, inputs[:, at])
                of_state.add_on_one_thread(previous, kind.receivers(inputs[:, at], bias_hh))
                kind.forward(previous, None, self._states[at], None)
                if needs_grad:
                    self._steps[part.start, number] = kind

        self._parts = equal_parts(images)
        for_each(decode, self._parts)
        return self._states

    def backward(self, d_states: np.ndarray) -> list[np.ndarray | None]:
        """Return the gradients of all arrays, None for the mask; `d_states` [W,H] is that of the states."""
        weight_ih, weight_hh, *_ = self._by_gate
        of_state, of_context = self._packed(weight_hh), self._packed(weight_ih[:, :, self._word_dim :])
        of_query = self._packed(self._query_weight.T[None])
        d_hidden = np.empty((GRUSteps.num_gates, *d_states.shape), d_states.dtype)  # of U h + c
        d_inputs = np.empty_like(d_hidden)  # of W x
        d_queries, d_first = np.empty_like(self._queries), np.zeros_like(self._first)
        d_keys, d_values = np.zeros_like(self._keys), np.zeros_like(self._values)
        d_key_weights: dict[int, np.ndarray] = {}

        def step_back(part: slice) -> None:
            d_key_weight = np.zeros_like(self._key_weight)
            for number, captions, at, previous in reversed(list(self._rows_of(part))):
                kind, d_state = self._steps[part.start, number], d_first[captions]
                d_state += d_states[at]
                kind.backward(previous, None, d_state, None, d_hidden[:, at])
                d_inputs[:, at] = d_hidden[:, at]
                kind.to_input_gradients(d_inputs[:, at])
                d_context = np.empty_like(d_state)
                of_context.sum_products_on_one_thread(d_inputs[:, at], d_context)
                if self._keep_context is not None:
                    d_context *= self._keep_context[at]
                d_key_weight += attend_back(
                    self._key_weight,
                    *(self._queries[at], self._keys[captions], self._values[captions], self._attention[at]),
                    *(d_context, d_queries[at], d_keys[captions], d_values[captions]),
                )
                d_previous = np.empty_like(d_state)
                of_state.sum_products_on_one_thread(d_hidden[:, at], d_previous)
                d_state += d_previous
                d_state += of_query.multiply_on_one_thread(d_queries[at])[0]
            d_key_weights[part.start] = d_key_weight

        for_each(step_back, self._parts)
        d_words, d_query_weight, *of_cell = self._gradients_of_products(d_hidden, d_inputs, d_queries)
        d_key_weight = np.sum([d_key_weights[part.start] for part in self._parts], axis=0)
        return [d_words, d_first, d_values, d_keys, None, d_query_weight, d_key_weight, *of_cell]

    def _gradients_of_products(
        self, d_hidden: np.ndarray, d_inputs: np.ndarray, d_queries: np.ndarray
    ) -> list[np.ndarray]:
        """Return the gradients of the words, of Q and of the cell's four weights, from all steps at once."""
        weight_ih, bfloat16, ones = self._by_gate[0], self._bfloat16, np.ones((1, len(d_queries)), np.float32)
        read = np.concatenate([self._words, self._contexts], axis=1)
        previous = [self._states[start : start + self._count(step)] for step, start in self._earlier()]
        previous = np.concatenate([self._first[: self._count(0)], *previous])
        gradients = [np.empty_like(x) for x in self._by_gate]
        d_words = np.empty_like(self._words)
        for gate, (d_gate, d_input) in enumerate(zip(d_hidden, d_inputs, strict=True)):
            for d_product, factor, number in ((d_input, read, 0), (d_gate, previous, 1)):
                multiply(d_product.T, factor, out=gradients[number][gate], bfloat16=bfloat16)
                multiply(ones, d_product, out=gradients[number + 2][gate][None])
            weight = weight_ih[gate][:, : self._word_dim]
            multiply(d_input, weight, out=d_words, add=gate > 0, bfloat16=bfloat16)
        if self._keep_word is not None:
            d_words *= self._keep_word
        d_query_weight = multiply(previous.T, d_queries, bfloat16=bfloat16)
        of_cell = [x.reshape(-1, *x.shape[2:]) for x in gradients]
        return [d_words, d_query_weight, *of_cell]

    def _packed(self, matrices: np.ndarray, scales: Sequence[float] | None = None) -> PackedMatrices:
        return PackedMatrices(matrices, scales, self._bfloat16)

    def _count(self, step: int) -> int:
        return self._starts[step + 1] - self._starts[step]

    def _earlier(self) -> list[tuple[int, int]]:
        """Return each step from 1 on, with the row at which the step before it starts."""
        return list(enumerate(self._starts[:-2], start=1))

    def _rows_of(self, part: slice) -> list[tuple[int, slice, slice, np.ndarray]]:
        """Return, of each step that some captions of `part` take: its number, those captions, and the rows.

        The last of the four are the states [n,H] that they have before.
        """
        found = []
        for number, (start, end) in enumerate(pairwise(self._starts)):
            captions = slice(part.start, min(part.stop, end - start))
            if captions.start >= captions.stop:
                break
            previous = self._first[captions]
            if number:
                before = self._starts[number - 1]
                previous = self._states[before + captions.start : before + captions.stop]
            at = slice(start + captions.start, start + captions.stop)
            found.append((number, captions, at, previous))
        return found
