"""Optimizers that update several parameters at once on the CPU.

Paddle's update of a parameter runs on one thread, which cannot read the memory as fast as several can. Each
parameter is updated as Paddle does, so the weights are the same, bit for bit: by Paddle, or in blocks where
that is faster (`solvers/adam_blocks.py`).
"""

import functools
from collections.abc import Callable

import numpy as np
import paddle
from paddle import Tensor
from paddle.optimizer import Adam, AdamW

from config.machine.threads import for_each, num_threads
from solvers import adam_blocks


class UpdatesOnThreads:
    """Let an optimizer of Paddle's, which stands behind this class, share its parameters among threads."""

    _waiting: list[tuple] | None = None  # the updates of a step that is being collected

    def step(self) -> None:
        """Update all parameters once."""
        in_blocks = adam_blocks.is_faster()
        if paddle.get_device() != "cpu" or (num_threads() == 1 and not in_blocks):
            super().step()
            return
        self._waiting = []
        try:
            super().step()
            waiting = sorted(self._waiting, key=lambda update: -update[1][0].size)
        finally:
            self._waiting = None
        tasks: list[Callable[[], object]] = []
        for update in waiting:
            if in_blocks and self._fits_blocks(*update[1]):
                tasks += self._update_by_blocks(*update[1])
            else:
                tasks.append(functools.partial(self._append_optimize_op, *update))
        for_each(lambda task: task(), tasks)

    def _append_optimize_op(self, block: object, parameter_and_gradient: tuple) -> None:
        """Update a parameter, or keep the update for later; Paddle calls this for each parameter."""
        if self._waiting is None:
            super()._append_optimize_op(block, parameter_and_gradient)
        else:
            self._waiting.append((block, parameter_and_gradient))

    def _fits_blocks(self, parameter: Tensor, gradient: Tensor) -> bool:
        float32 = parameter.dtype == gradient.dtype == paddle.float32
        return float32 and gradient.is_dense() and parameter.is_contiguous() and gradient.is_contiguous()

    def _update_by_blocks(self, parameter: Tensor, gradient: Tensor) -> list[Callable[[], None]]:
        """Return the tasks that update a parameter; the powers of both betas are updated at once."""
        kinds = self._moment1_acc_str, self._moment2_acc_str, self._beta1_pow_acc_str, self._beta2_pow_acc_str
        first, second, *powers = (
            adam_blocks.vector_of(self._get_accumulator_master(kind, parameter)) for kind in kinds
        )
        betas = np.float32(self._beta1), np.float32(self._beta2)
        rate = np.float32(self._create_param_lr((parameter, gradient)).item())
        update = adam_blocks.Update(
            *(adam_blocks.vector_of(tensor) for tensor in (parameter, gradient)),
            moments=(first, second),
            betas=betas,
            powers=tuple(power[0] for power in powers),
            rate=rate,
            epsilon=np.float32(self._epsilon),
            decay=rate * np.float32(self._decay_of(parameter)),
        )
        for power, beta in zip(powers, betas, strict=True):
            power *= beta
        return [functools.partial(update.run, block) for block in update.blocks()]

    def _decay_of(self, parameter: Tensor) -> float:
        """Return the share of a parameter by which it shrinks at a rate of 1."""
        return 0.0


class ThreadedAdam(UpdatesOnThreads, Adam):
    """Paddle's Adam."""


class ThreadedAdamW(UpdatesOnThreads, AdamW):
    """Paddle's AdamW."""

    def _decay_of(self, parameter: Tensor) -> float:
        decays = self._apply_decay_param_fun is None or self._apply_decay_param_fun(parameter.name)
        return self._weight_decay if decays else 0.0
