"""Optimizers, their parameter groups, and their state under the parameters' own names."""

from collections.abc import Iterable

import numpy as np
import paddle
from paddle import Tensor
from paddle.nn import ClipGradByValue
from paddle.optimizer import SGD, Momentum, Optimizer
from paddle.regularizer import L2Decay
from yacs.config import CfgNode

from solvers.bert_adamw import BertAdamW
from solvers.clipping import ClipByGlobalNorm
from solvers.threads import ThreadedAdam, ThreadedAdamW

NamedParameters = Iterable[tuple[str, Tensor]]


def is_decayed(parameter: Tensor) -> bool:
    """Return whether weight decay applies: to matrices, not to biases, norms and temperatures."""
    return parameter.ndim > 1


def _clip(cfg: CfgNode) -> ClipByGlobalNorm | ClipGradByValue | None:
    bound = cfg.OPTIMIZATION.CLIP_MAX_NORM
    clips = {
        "norm": lambda: ClipByGlobalNorm(bound),
        "value": lambda: ClipGradByValue(bound),
        "none": lambda: None,
    }
    if cfg.OPTIMIZATION.CLIP not in clips:
        raise ValueError(f"OPTIMIZATION.CLIP: expected one of {sorted(clips)}, got {cfg.OPTIMIZATION.CLIP!r}")
    return clips[cfg.OPTIMIZATION.CLIP]()


def build_optimizer(cfg: CfgNode, named_parameters: NamedParameters) -> Optimizer:
    """Return the configured optimizer over the trainable `named_parameters`.

    The learning rate of parameters named `image_encoder.*` is scaled by IMAGE_LR_SCALE, that of
    `text_encoder.*` by TEXT_LR_SCALE. The rate of a CNN (`cnn.*`, also inside `image_encoder.`) is scaled by
    CNN_LR_SCALE too. The caller sets the rate before each step with `set_lr`.
    """
    options = cfg.OPTIMIZATION
    trainable = [(name, parameter) for name, parameter in named_parameters if not parameter.stop_gradient]
    decoupled = options.OPTIMIZER in ("adamw", "bert_adamw")
    # Rates are set as attributes, because Paddle clips each of its parameter groups by a norm of its own.
    for name, parameter in trainable:
        scale = 1.0
        if name.startswith("image_encoder."):
            scale = options.IMAGE_LR_SCALE
        elif name.startswith("text_encoder."):
            scale = options.TEXT_LR_SCALE
        if name.removeprefix("image_encoder.").startswith("cnn."):
            scale *= options.CNN_LR_SCALE
        parameter.optimize_attr["learning_rate"] = scale
        penalised = options.WEIGHT_DECAY > 0 and is_decayed(parameter) and not decoupled
        parameter.regularizer = L2Decay(options.WEIGHT_DECAY) if penalised else None
    parameters = [parameter for _, parameter in trainable]
    decayed = {parameter.name for parameter in parameters if is_decayed(parameter)}
    beta1, beta2 = options.BETAS
    clip = _clip(cfg)
    optimizers = {
        "adam": lambda: ThreadedAdam(options.LR, beta1, beta2, options.EPSILON, parameters, grad_clip=clip),
        "adamw": lambda: ThreadedAdamW(
            options.LR,
            beta1,
            beta2,
            options.EPSILON,
            parameters,
            weight_decay=options.WEIGHT_DECAY,
            apply_decay_param_fun=decayed.__contains__,
            grad_clip=clip,
        ),
        "bert_adamw": lambda: BertAdamW(
            options.LR,
            beta1,
            beta2,
            options.EPSILON,
            parameters,
            weight_decay=options.WEIGHT_DECAY,
            apply_decay_param_fun=decayed.__contains__,
            grad_clip=clip,
        ),
        "sgd": lambda: SGD(options.LR, parameters, grad_clip=clip),
        "momentum": lambda: Momentum(options.LR, options.MOMENTUM, parameters, grad_clip=clip),
    }
    if options.OPTIMIZER not in optimizers:
        raise ValueError(
            f"OPTIMIZATION.OPTIMIZER: expected one of {sorted(optimizers)}, got {options.OPTIMIZER!r}"
        )
    return optimizers[options.OPTIMIZER]()


def _accumulators(optimizer: Optimizer, named_parameters: NamedParameters) -> dict[str, Tensor]:
    """Return every accumulator under `<kind>/<name of its parameter>`; missing ones are created."""
    trainable = [(name, parameter) for name, parameter in named_parameters if not parameter.stop_gradient]
    # Paddle names accumulators by a counter of the process, and creates them only at the first step.
    block = paddle.static.default_main_program().global_block()
    optimizer._create_accumulators(block, [parameter for _, parameter in trainable])
    return {
        f"{kind}/{name}": by_parameter[parameter.name]
        for kind, by_parameter in optimizer._accumulators.items()
        for name, parameter in trainable
        if parameter.name in by_parameter
    }


def optimizer_state(optimizer: Optimizer, named_parameters: NamedParameters) -> dict[str, np.ndarray]:
    """Return the optimizer's state: `<kind>/<parameter name>` -> array, ready for a safetensors file.

    The state does not include the learning rate, which is a function of the step.
    """
    return {name: value.numpy() for name, value in _accumulators(optimizer, named_parameters).items()}


def restore_optimizer_state(
    optimizer: Optimizer, named_parameters: NamedParameters, state: dict[str, np.ndarray]
) -> None:
    """Restore bit for bit what `optimizer_state` returned, in an optimizer over parameters of the same names.

    Raises ValueError that names the first missing, unexpected or misshapen entry; nothing is changed then.
    """
    accumulators = _accumulators(optimizer, named_parameters)
    for name in sorted(accumulators.keys() ^ state.keys()):
        problem = "lacks" if name in accumulators else "has an unexpected"
        raise ValueError(f"optimizer state {problem} entry {name}")
    for name, value in accumulators.items():
        if list(state[name].shape) != list(value.shape):
            shapes = f"expected shape {list(value.shape)}, got {list(state[name].shape)}"
            raise ValueError(f"optimizer state, entry {name}: {shapes}")
    for name, value in accumulators.items():
        value.set_value(state[name])
