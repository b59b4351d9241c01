"""Adam on blocks of a parameter in NumPy, bit for bit what Paddle computes on a processor without AVX-512.

Paddle has code for AVX-512 alone. Elsewhere it updates number by number, the last part in double precision,
which takes twice as long.
"""

import ctypes
import functools
from dataclasses import dataclass

import numpy as np
from paddle import Tensor

from config.machine.numpy_kernels import cpu_field, read_cpuinfo

# Numbers of a parameter: a block with all that belongs to it is 2 MB, and stays in the cache.
_BLOCK = 1 << 16


@functools.cache
def is_faster() -> bool:
    """Tell whether this processor has AVX2, but not AVX-512, for which Paddle has code of its own."""
    flags = cpu_field(read_cpuinfo(), "flags")
    return "avx2" in flags and "avx512f" not in flags


@dataclass(frozen=True)
class Update:
    """One step of a parameter, of float32 vectors [N] and numbers.

    The vectors are overwritten, but for `gradient`. `powers` are the powers of both betas up to this step.
    Before the step, weights shrink by `decay` times themselves.
    """

    weight: np.ndarray
    gradient: np.ndarray
    moments: tuple[np.ndarray, np.ndarray]
    betas: tuple[np.float32, np.float32]
    powers: tuple[np.float32, np.float32]
    rate: np.float32
    epsilon: np.float32
    decay: np.float32

    def blocks(self) -> list[slice]:
        """Return the parts of the vectors that threads share."""
        return [slice(start, start + _BLOCK) for start in range(0, self.weight.size, _BLOCK)]

    @np.errstate(over="ignore", divide="ignore", invalid="ignore")  # gradients may be infinite
    def run(self, block: slice) -> None:
        """Update a part of the parameter and of its moments m and v.

        m <- beta1 m + (1 - beta1) g, v <- beta2 v + (1 - beta2) g^2, and
        w <- w - rate sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + epsilon sqrt(1 - beta2^t)).
        """
        one, (beta1, beta2) = np.float32(1), self.betas
        weight, gradient, first, second = (x[block] for x in (self.weight, self.gradient, *self.moments))
        if self.decay:
            weight -= weight * self.decay
        first *= beta1
        part = gradient * (one - beta1)
        first += part
        second *= beta2
        np.multiply(gradient, one - beta2, out=part)
        part *= gradient
        second += part
        root = np.sqrt(one - self.powers[1])
        rate = self.rate * (root / (one - self.powers[0]))
        change = np.sqrt(second, dtype=np.float64)  # Paddle's C++ goes on in double precision, too
        change += self.epsilon * root
        np.divide(first, change, out=change)
        change *= -rate
        change += weight
        weight[:] = change


def vector_of(tensor: Tensor) -> np.ndarray:
    """Return a vector that shares the memory of a float32 tensor on the CPU, for writing into it."""
    return np.ctypeslib.as_array((ctypes.c_float * tensor.size).from_address(tensor.data_ptr()))
