"""The element-wise parts of a GRU and of an LSTM, forward and backward, in NumPy and MKL.

`recurrence.py` beside this file calls them for a block of rows that stays in the cache, and multiplies.
"""

from collections.abc import Sequence

import numpy as np

from models.kernels import mkl


class GRUSteps:
    """The element-wise part of a GRU for n rows of a level; the gates are in the order r, z, n.

    What `backward` needs stays in this object: r, z and n in `gates` [3,n,D], U_n h + c_n in `hidden_n`
    [n,D]. These are the arrays that `receivers` gave out, so that a step allocates nothing else.
    """

    num_gates, has_cell = 3, False
    passes_state = True  # a gradient reaches h past the product U h
    separate_biases = (2,)  # gates whose input and hidden bias have different gradients
    scales = -1.0, -1.0, 1.0  # of a gate's input, as the logistic function is 1 / (1 + exp(-x))

    @staticmethod
    def input_bias(bias_ih: np.ndarray, bias_hh: np.ndarray) -> np.ndarray:
        """Return the bias [3,D] of W x: the sum of both, but for n its own alone, as r scales the other."""
        return np.stack([bias_ih[0] + bias_hh[0], bias_ih[1] + bias_hh[1], bias_ih[2]])

    def receivers(self, inputs: np.ndarray, bias_hh: np.ndarray) -> Sequence[np.ndarray]:
        """Return the arrays [n,D] to which the scaled products U h of the gates are to be added.

        `inputs` [3,n,D] are the scaled W x with their biases; they are overwritten from here on.
        """
        self.gates, self.hidden_n = inputs, np.empty(inputs.shape[1:], inputs.dtype)
        self.hidden_n[:] = bias_hh[2]
        return inputs[0], inputs[1], self.hidden_n

    def forward(self, previous: np.ndarray, cell: None, state: np.ndarray, new_cell: None) -> None:
        """Write the next state to `state` [n,D], once the receivers have the products.

        `previous` [n,D] is h. A GRU has no cell: `cell` and `new_cell` are None.
        """
        r, z, n = self.gates
        _to_logistic(r)
        _to_logistic(z)
        n += np.multiply(r, self.hidden_n, out=state)
        mkl.tanh(n)
        np.subtract(previous, n, out=state)
        state *= z
        state += n

    def backward(
        self, previous: np.ndarray, cell: None, d_state: np.ndarray, d_cell: None, d_gates: np.ndarray
    ) -> None:
        """Write the gradients of U h + c to `d_gates` [3,n,D].

        `d_state` [n,D] is overwritten by the gradient that reaches h past the product, `hidden_n` by the
        gradient of n's W x. For r and z, W x and U h have the same gradient.
        """
        (r, z, n), hidden_n = self.gates, self.hidden_n
        d_r, d_z, d_n = d_gates
        fresh = 1 - z
        _tanh_slope(n, out=d_n)
        d_n *= d_state
        d_n *= fresh
        d_state *= z
        np.subtract(previous, n, out=d_z)
        d_z *= d_state
        d_z *= fresh
        np.subtract(1, r, out=d_r)
        d_r *= hidden_n
        hidden_n[:] = d_n
        d_n *= r
        d_r *= d_n

    def to_input_gradients(self, d_hidden: np.ndarray) -> None:
        """Turn the gradients of U h + c [3,n,D] into those of W x, in place."""
        d_hidden[2] = self.hidden_n


class LSTMSteps:
    """The element-wise part of an LSTM for n rows of a level; the gates are in the order i, f, g, o.

    `forward` stores what `backward` needs: `gates` [4,n,D], h in `state` [n,D], tanh(c) in `tanh_cell` [n,D].
    The class attributes mean what they do in `GRUSteps`.
    """

    num_gates, has_cell, passes_state = 4, True, False
    separate_biases = ()
    scales = -1.0, -1.0, 1.0, -1.0

    @staticmethod
    def input_bias(bias_ih: np.ndarray, bias_hh: np.ndarray) -> np.ndarray:
        """Return the bias [4,D] of W x: the sum of both biases."""
        return bias_ih + bias_hh

    def receivers(self, inputs: np.ndarray, bias_hh: np.ndarray) -> Sequence[np.ndarray]:
        """Return `inputs` [4,n,D], to which the scaled products U h are to be added."""
        self.gates = inputs
        return inputs

    def forward(
        self, previous: np.ndarray, cell: np.ndarray, state: np.ndarray, new_cell: np.ndarray
    ) -> None:
        """Write the next state to `state` [n,D] and the next cell to `new_cell` [n,D]."""
        i, f, g, o = self.gates
        for gate in (i, f, o):
            _to_logistic(gate)
        mkl.tanh(g)
        np.multiply(f, cell, out=new_cell)
        new_cell += np.multiply(i, g, out=state)
        self.state, self.tanh_cell = state, new_cell.copy()
        mkl.tanh(self.tanh_cell)
        np.multiply(o, self.tanh_cell, out=state)

    def backward(
        self,
        previous: np.ndarray,
        cell: np.ndarray,
        d_state: np.ndarray,
        d_cell: np.ndarray,
        d_gates: np.ndarray,
    ) -> None:
        """Write the gradients of W x + U h to `d_gates` [4,n,D].

        `d_cell` [n,D], the gradient of the cell, is overwritten by the gradient of the previous cell. No
        gradient reaches h past the product.
        """
        i, f, g, o = self.gates
        np.subtract(1, self.gates, out=d_gates)
        d_i, d_f, d_g, d_o = d_gates
        slope = self.state * self.tanh_cell
        np.subtract(o, slope, out=slope)  # o (1 - tanh(c)^2)
        slope *= d_state
        d_cell += slope
        d_o *= self.state
        d_o *= d_state
        d_g *= np.add(1, g, out=slope)
        for d_gate, slope_left, factor in ((d_i, i, g), (d_f, f, cell), (d_g, i, None)):
            d_gate *= slope_left
            if factor is not None:
                d_gate *= factor
            d_gate *= d_cell
        d_cell *= f

    def to_input_gradients(self, d_hidden: np.ndarray) -> None:
        """Do nothing: W x and U h are added, so their gradients are equal."""


Steps = type[GRUSteps] | type[LSTMSteps]


def _to_logistic(x: np.ndarray) -> None:
    """Replace the values of `x`, a contiguous array, by the logistic function of -x."""
    mkl.exp(x)
    x += 1
    np.reciprocal(x, out=x)


def _tanh_slope(y: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Write the derivative 1 - y^2 of tanh, where its value is `y`, to `out`; return `out`."""
    np.multiply(y, y, out=out)
    return np.subtract(1, out, out=out)
