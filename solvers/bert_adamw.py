"""AdamW as in pytorch-transformers 1.0.0, with which Oscar and VinVL were trained."""

import math
from collections.abc import Callable

import paddle
from paddle import Tensor
from paddle.nn import ClipGradByGlobalNorm, ClipGradByValue

from solvers.threads import ThreadedAdamW


class BertAdamW(ThreadedAdamW):
    """Paddle's AdamW, but with epsilon outside the bias correction of the second moment.

        p <- p - rate sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + epsilon)

    Paddle's form divides by sqrt(v) + epsilon sqrt(1 - beta2^t), so its first steps are larger where
    gradients are near epsilon. The original decays weights after the step, this class before it: the weights
    differ by less than rate^2.
    """

    def __init__(
        self,
        learning_rate: float,
        beta1: float,
        beta2: float,
        epsilon: float,
        parameters: list[Tensor],
        weight_decay: float = 0.0,
        apply_decay_param_fun: Callable[[str], bool] | None = None,
        grad_clip: ClipGradByGlobalNorm | ClipGradByValue | None = None,
    ) -> None:
        super().__init__(
            learning_rate,
            beta1,
            beta2,
            epsilon,
            parameters,
            weight_decay=weight_decay,
            apply_decay_param_fun=apply_decay_param_fun,
            grad_clip=grad_clip,
        )
        self._original_epsilon = epsilon

    @paddle.no_grad()
    def step(self) -> None:
        """Update the parameters once."""
        powers = self._accumulators.get(self._beta2_pow_acc_str, {})  # beta2^t of each parameter
        power = next(iter(powers.values())).item() if powers else self._beta2
        self._epsilon = self._original_epsilon / math.sqrt(1 - power)
        super().step()
