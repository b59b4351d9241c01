"""Several processes that train one model: each on its share of a batch, with averaged gradients."""

import os
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import paddle
import paddle.distributed as dist

from config.errors import UserError
from engine.weights.tensors import layer_tensors
from models.gathering import gather_counts, gather_rows

Value = TypeVar("Value")

_LARGE = 1 << 18  # numbers


def process_number() -> int:
    """Return this process's number, from 0; the launcher sets it."""
    return int(os.environ.get("PADDLE_TRAINER_ID", "0"))


def world_size() -> int:
    """Return the number of processes of the job."""
    return int(os.environ.get("PADDLE_TRAINERS_NUM", "1"))


def is_main() -> bool:
    """Tell whether this is the one process that logs and saves."""
    return process_number() == 0


def start_process_group() -> None:
    """Connect the processes of a launched job (gloo on the CPU, NCCL on GPUs)."""
    if world_size() > 1 and not dist.is_initialized():
        if paddle.get_device() == "cpu":  # else Paddle's CUDA build takes NCCL, wherever the tensors are
            os.environ.setdefault("PADDLE_DISTRI_BACKEND", "gloo")
        dist.init_parallel_env()


def wait_for_all() -> None:
    """Return when every process of the job has come here."""
    if world_size() > 1:
        dist.barrier()


def broadcast_layer(layer: paddle.nn.Layer) -> None:
    """Give every process the parameters and the saved buffers of process 0."""
    if world_size() > 1:
        for tensor in layer_tensors(layer).values():
            dist.broadcast(tensor, src=0)


def broadcast_values(values: list[float]) -> list[float]:
    """Return process 0's list of numbers on every process."""
    if world_size() == 1:
        return values
    tensor = paddle.to_tensor(np.asarray(values, dtype="float64"))
    dist.broadcast(tensor, src=0)
    return tensor.tolist()


def broadcast_array(owner: int, values: np.ndarray) -> np.ndarray:
    """Return the `values` of process `owner`; the others' give the shape and the type."""
    tensor = paddle.to_tensor(np.ascontiguousarray(values))
    dist.broadcast(tensor, src=owner)
    return tensor.numpy()


def gather_array(values: np.ndarray) -> np.ndarray:
    """Return the rows of all processes' `values` [n,...], in their order; n may differ."""
    return gather_rows(paddle.to_tensor(values))[0].numpy()


def gather_bytes(data: bytes) -> list[bytes]:
    """Return what every process calls with, in their order."""
    if world_size() == 1:
        return [data]
    sizes = gather_counts(len(data))
    whole = gather_array(np.frombuffer(data, np.uint8)).tobytes()
    ends = np.cumsum(sizes)
    return [whole[end - size : end] for size, end in zip(sizes, ends.tolist(), strict=True)]


def all_reduce(values: np.ndarray, how: str) -> np.ndarray:
    """Return the sum ("sum") or the largest ("max") of all processes' `values`, element by element."""
    if world_size() == 1:
        return values
    tensor = paddle.to_tensor(values)
    dist.all_reduce(tensor, {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}[how])
    return tensor.numpy()


def all_or_none(action: Callable[[], Value]) -> Value:
    """Return what `action` does, when every process has done it.

    If `action` raises in any process, all processes raise, so that none waits for one that has left. A
    process whose own action succeeded raises ValidationStoppedError if the failing one did, otherwise
    UserError.
    """
    value, failure = None, None
    try:
        value = action()
    except Exception as error:
        failure = error
    kind = 0 if failure is None else 1 if isinstance(failure, ValidationStoppedError) else 2
    worst = int(all_reduce(np.array([kind]), "max")[0])
    if failure is not None:
        raise failure
    if worst == 1:
        raise ValidationStoppedError
    if worst == 2:
        raise UserError("another process of the job has failed; its own line says why")
    return value


def average_gradients(parameters: list[paddle.Tensor], extra: list[float]) -> list[float]:
    """Average the gradients of all processes in place, and a few numbers with them.

    Large gradients travel as they are, since copying them costs a quarter of that on the CPU; all others in
    one message. A parameter without a gradient in this process counts as zero; one without a gradient in any
    process keeps none, so that the optimizer leaves it alone, as it does in a job of one process. Returns the
    averages of `extra`, which tell every process the same loss and the same wish to stop at the same step.
    """
    if world_size() == 1:
        return extra
    trained = [parameter for parameter in parameters if not parameter.stop_gradient]
    used = [float(parameter.grad is not None) for parameter in trained]
    for parameter in trained:
        if parameter.grad is None:
            parameter.grad = paddle.zeros_like(parameter)
    gradients = [parameter.grad for parameter in trained]
    large = [gradient for gradient in gradients if gradient.size >= _LARGE]
    small = [gradient for gradient in gradients if gradient.size < _LARGE]
    numbers = paddle.to_tensor([*used, *extra], dtype="float32")
    buffer = paddle.concat([*(gradient.astype("float32").flatten() for gradient in small), numbers])
    summed = [*large, buffer]
    with paddle.no_grad():
        for tensor, task in [(tensor, dist.all_reduce(tensor, sync_op=False)) for tensor in summed]:
            task.wait()
            tensor.scale_(1 / world_size())  # while the next ones travel
    start = 0
    for gradient in small:
        end = start + gradient.size
        gradient.set_value(buffer[start:end].reshape(gradient.shape).astype(gradient.dtype))
        start = end
    numbers = buffer[start:].tolist()
    for parameter, used_anywhere in zip(trained, numbers, strict=False):
        if not used_anywhere:
            parameter.grad = None
    return numbers[len(trained) :]


class ValidationStoppedError(Exception):
    """A signal came while the dev split was measured."""
