"""Networks of convolutions in bfloat16, by oneDNN on the calling thread alone.

Maps lie in the layout that oneDNN's code wants from the first convolution to the last, and take turns in as
little memory as they need, most of which stays in the cache. What follows a convolution, such as ReLU6 or the
sum with an earlier map, is done in the same pass.
"""

import ctypes
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.kernels import onednn

_INFERENCE, _DIRECT, _CLIP = 96, 1, 0x2E  # of dnnl_prop_kind_t and dnnl_alg_kind_t
INPUT = "input"
"""The name of the map that is given, the pictures."""


@dataclass(frozen=True)
class Clip:
    """A step that limits values to `low` and `high`, as ReLU (0 and infinity) and ReLU6 do."""

    low: float
    high: float


@dataclass(frozen=True)
class Add:
    """A step that adds an earlier map, which no convolution after this one reads."""

    map: str


@dataclass(frozen=True)
class Convolution:
    """A convolution of the map `source`, and the steps that make the map `name` of it.

    `weight` is float32 [O,I/groups,h,w], `bias` float32 [O]. `padding` is top, left, bottom, right.
    """

    name: str
    source: str
    weight: np.ndarray
    bias: np.ndarray
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    groups: int
    steps: tuple[Clip | Add, ...] = ()


class ConvolutionNetwork:
    """Convolutions that run one after the other: float32 [B,3,size,size] -> the last map [B,F,h,w], float32.

    Weights and maps are rounded to bfloat16; products are added up in float32. Pictures run one by one, so a
    picture's map does not depend on its batch. Threads may share the network. Raises
    onednn.UnsupportedError where the processor has no code for bfloat16.
    """

    def __init__(self, convolutions: Sequence[Convolution], size: int) -> None:
        self._sizes: list[int] = []  # bytes of each piece of memory that maps take turns in
        self._free: list[int] = []
        self._runs: list[_Run] = []
        self._size, self._scratch, self._of_thread = size, 0, threading.local()
        shape = (1, 3, size, size)
        given = onednn.describe(shape, onednn.FLOAT32, _strides(shape))
        maps = {INPUT: _Map(shape, given, self._take(4 * 3 * size * size))}
        last_read = {
            name: number for number, each in enumerate(convolutions) for name in (each.source, *_added(each))
        }
        for number, each in enumerate(convolutions):
            last = number == len(convolutions) - 1
            maps[each.name] = self._append(each, maps, onednn.FLOAT32 if last else onednn.BFLOAT16)
            given_on = _added(each)  # whose memory the new map has now
            for name in {each.source} - set(given_on):
                if last_read[name] == number:
                    self._free.append(maps[name].place)
        self._shape = maps[convolutions[-1].name].shape
        made = onednn.describe(self._shape, onednn.FLOAT32, _strides(self._shape))
        self._input, self._result = maps[INPUT].place, self._take(4 * int(np.prod(self._shape)))
        end = maps[convolutions[-1].name]
        self._copy(end.layout, end.place, made, self._result)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return the last maps of pictures."""
        room = self._room()
        maps = np.empty((len(images), *self._shape[1:]), np.float32)
        before = onednn.set_one_thread()
        try:
            for image, result in zip(images, maps, strict=True):
                room.input[:] = image
                for run in room.runs:
                    onednn.check(run())
                result[:] = room.result
        finally:
            onednn.set_threads(before)
        return maps

    def _append(self, convolution: Convolution, maps: dict[str, "_Map"], kind: int) -> "_Map":
        """Compile a convolution, with a copy of its source in the layout that it wants; return its map."""
        source, weight, groups = maps[convolution.source], convolution.weight, convolution.groups
        shape = _result_shape(source.shape, convolution)
        added = [maps[name] for name in _added(convolution)]
        wanted = onednn.describe(shape, kind)
        if added:  # the map takes its memory
            wanted = added[0].layout
        if groups > 1:
            weight = weight.reshape(groups, len(weight) // groups, *weight.shape[1:])
        bias = onednn.describe(convolution.bias.shape, onednn.FLOAT32, (1,))
        top, left, bottom, right = convolution.padding
        compiled = onednn.Compiled(
            "dnnl_convolution_forward_primitive_desc_create",
            (
                *(onednn.engine(), _INFERENCE, _DIRECT, onednn.describe(source.shape, onednn.BFLOAT16)),
                *(onednn.describe(weight.shape, onednn.BFLOAT16), bias, wanted),
                *map(_numbers, (convolution.stride, (0, 0), (top, left), (bottom, right))),
            ),
            _steps(convolution.steps),
        )
        read, place, freed = compiled.layout(onednn.SOURCE_LAYOUT), source.place, []
        if not onednn.are_equal(source.layout, read):
            place = self._take(onednn.bytes_of(read))
            freed = [place]
            self._copy(source.layout, source.place, read, place)
        packed = _packed(weight, compiled.layout(onednn.WEIGHTS_LAYOUT))
        layout = compiled.layout(onednn.DESTINATION_LAYOUT)
        out = added[0].place if added else self._take(onednn.bytes_of(layout))
        self._runs.append(
            _Run(
                compiled,
                [
                    (onednn.SOURCE, read, place),
                    (onednn.WEIGHTS, packed.layout, packed),
                    (onednn.BIAS, bias, _kept(convolution.bias, bias)),
                    (onednn.DESTINATION, layout, out),
                ],
            )
        )
        self._scratch = max(self._scratch, onednn.bytes_of(compiled.scratchpad))
        self._free += freed
        return _Map(shape, layout, out)

    def _copy(self, source: onednn.Layout, start: int, layout: onednn.Layout, place: int) -> None:
        copy = onednn.Primitive(source, layout)
        self._runs.append(_Run(copy, [(onednn.SOURCE, source, start), (onednn.DESTINATION, layout, place)]))
        self._scratch = max(self._scratch, onednn.bytes_of(copy.scratchpad))

    def _take(self, size: int) -> int:
        """Return the number of a free piece of memory, the one that fits `size` bytes best."""
        fitting = [place for place in self._free if self._sizes[place] >= size]
        if fitting:
            place = min(fitting, key=self._sizes.__getitem__)
            self._free.remove(place)
            return place
        self._sizes.append(size)
        return len(self._sizes) - 1

    def _room(self) -> "_Room":
        if not hasattr(self._of_thread, "room"):
            self._of_thread.room = _Room(
                self._runs, self._sizes, self._scratch, self._input, (3, self._size, self._size),
                self._result, self._shape[1:],
            )  # fmt: skip
        return self._of_thread.room


@dataclass(frozen=True)
class _Map:
    shape: tuple[int, int, int, int]
    layout: onednn.Layout
    place: int  # which piece of memory holds it


@dataclass(frozen=True)
class _Kept:
    """Numbers that do not change: `address` lies within the memory `room`."""

    room: np.ndarray
    address: int
    layout: onednn.Layout


@dataclass(frozen=True)
class _Run:
    """A primitive, and its arguments: a number, a description, and numbers or a place for them."""

    compiled: onednn.Compiled
    arguments: list[tuple[int, onednn.Layout, "_Kept | int"]]


class _Room:
    """The memory of one thread: `input` and `result` are arrays in it, `runs` what is to be run on it."""

    def __init__(
        self,
        runs: Sequence[_Run],
        sizes: Sequence[int],
        scratch: int,
        input_place: int,
        input_shape: tuple[int, ...],
        result_place: int,
        result_shape: tuple[int, ...],
    ) -> None:
        self._rooms = [onednn.aligned(size) for size in (*sizes, scratch)]
        addresses = [address for _, address in self._rooms]
        self._memories: list[onednn.Handle] = []
        self.runs = [run.compiled.on(self._arguments(run, addresses)) for run in runs]
        self.input = self._array(input_place, input_shape)
        self.result = self._array(result_place, result_shape)

    def _arguments(self, run: _Run, addresses: Sequence[int]) -> ctypes.Array:
        parts = [*run.arguments, (onednn.SCRATCHPAD, run.compiled.scratchpad, len(addresses) - 1)]
        made = []
        for number, layout, where in parts:
            memory = onednn.memory(layout, where.address if isinstance(where, _Kept) else addresses[where])
            self._memories.append(memory)
            made.append(onednn.Argument(number, memory.pointer))
        return (onednn.Argument * len(made))(*made)

    def _array(self, place: int, shape: tuple[int, ...]) -> np.ndarray:
        room, address = self._rooms[place]
        start = address - room.ctypes.data
        return room[start : start + 4 * int(np.prod(shape))].view(np.float32).reshape(shape)


def _result_shape(shape: tuple[int, int, int, int], convolution: Convolution) -> tuple[int, int, int, int]:
    top, left, bottom, right = convolution.padding
    padded = shape[2] + top + bottom, shape[3] + left + right
    sides = (
        (side - kernel) // stride + 1
        for side, kernel, stride in zip(padded, convolution.weight.shape[2:], convolution.stride, strict=True)
    )
    return 1, len(convolution.weight), *sides


def _added(convolution: Convolution) -> list[str]:
    return [step.map for step in convolution.steps if isinstance(step, Add)]


def _steps(steps: Sequence[Clip | Add]) -> onednn.Handle | None:
    if not steps:
        return None
    made = onednn.Handle("dnnl_post_ops_create", "dnnl_post_ops_destroy")
    for step in steps:
        if isinstance(step, Add):
            onednn.append_sum(made)
        else:
            bounds = ctypes.c_float(step.low), ctypes.c_float(step.high)
            onednn.call("dnnl_post_ops_append_eltwise", made, _CLIP, *bounds)
    return made


def _packed(weight: np.ndarray, layout: onednn.Layout) -> _Kept:
    """Return weights as bfloat16 in the layout that a convolution wants."""
    weight = np.ascontiguousarray(weight, np.float32)
    source, layout = (
        onednn.describe(weight.shape, onednn.FLOAT32, _strides(weight.shape)),
        onednn.copy_of(layout),
    )
    room, address = onednn.aligned(onednn.bytes_of(layout))
    copy = onednn.Primitive(source, layout)
    scratch = onednn.aligned(onednn.bytes_of(copy.scratchpad))
    parts = {
        onednn.SOURCE: (source, weight.ctypes.data),
        onednn.DESTINATION: (layout, address),
        onednn.SCRATCHPAD: (copy.scratchpad, scratch[1]),
    }
    memories = [onednn.memory(*part) for part in parts.values()]
    arguments = [
        onednn.Argument(number, memory.pointer) for number, memory in zip(parts, memories, strict=True)
    ]
    copy.run((onednn.Argument * len(arguments))(*arguments))
    return _Kept(room, address, layout)


def _kept(values: np.ndarray, layout: onednn.Layout) -> _Kept:
    values = np.ascontiguousarray(values, np.float32)
    return _Kept(values, values.ctypes.data, layout)


def _strides(shape: Sequence[int]) -> list[int]:
    return [int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))]


def _numbers(values: Sequence[int]) -> ctypes.Array:
    return (ctypes.c_int64 * len(values))(*values)
