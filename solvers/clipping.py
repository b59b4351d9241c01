"""Clip gradients by their global norm."""

import math

import numpy as np
import paddle
from paddle import Tensor
from paddle.nn import ClipGradByGlobalNorm

from config.machine.threads import for_each


class ClipByGlobalNorm(ClipGradByGlobalNorm):
    """Scale all gradients so that their joint l2 norm is at most `clip_norm` (Pascanu et al. 2013).

    Paddle's own class multiplies by a tensor; on the CPU that takes ten times as long as by a number. Threads
    share the gradients, since one alone cannot read the memory as fast.
    """

    @paddle.no_grad()
    def _dygraph_clip(
        self, parameters_and_gradients: list[tuple[Tensor, Tensor | None]]
    ) -> list[tuple[Tensor, Tensor | None]]:
        gradients = [
            gradient
            for parameter, gradient in parameters_and_gradients
            if gradient is not None and getattr(parameter, "need_clip", True)
        ]
        if paddle.get_device() != "cpu" or any(not gradient.is_dense() for gradient in gradients):
            return super()._dygraph_clip(parameters_and_gradients)
        gradients.sort(key=lambda gradient: -gradient.size)
        squares = [0.0] * len(gradients)

        def measure(place: int) -> None:
            squares[place] = _squared_norm(gradients[place])

        for_each(measure, range(len(gradients)))
        norm = math.sqrt(sum(squares))
        if norm > self.clip_norm:

            def shorten(gradient: Tensor) -> None:
                with paddle.no_grad():  # it holds for one thread
                    gradient.scale_(self.clip_norm / norm)

            for_each(shorten, gradients)
        return parameters_and_gradients


def _squared_norm(gradient: Tensor) -> float:
    """Return the sum of squares of a CPU tensor, by NumPy, because Paddle's sum runs on one thread."""
    values = np.from_dlpack(gradient.detach()).reshape(-1)
    return float(values @ values)
