"""Networks of convolutions in float32 or bfloat16, by oneDNN on the calling thread alone.

The channels of a pixel lie together in every map, so some rows of a map are a map, too: `convolution_plan.py`
tells which rows are made when. Maps take turns in as little memory as they need. What follows a convolution,
such as ReLU6 or the sum with an earlier map, is done in the same pass.
"""

import ctypes
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from models.kernels import onednn
from models.kernels.convolution_plan import (
    INPUT,
    Add,
    Clip,
    Convolution,
    Make,
    Move,
    all_sides,
    chains,
    cut,
    plan,
)

_INFERENCE, _DIRECT, _CLIP = 96, 1, 0x2E  # of dnnl_prop_kind_t and dnnl_alg_kind_t
_BUDGET = 1 << 20  # bytes of the maps within a block: half of a cache of the second level, or all of it
_TOGETHER = 4  # pictures that share the reading of large weights
_BYTES, _NUMPY = {onednn.FLOAT32: 4, onednn.BFLOAT16: 2}, {onednn.FLOAT32: "f4", onednn.BFLOAT16: "u2"}

Shape = tuple[int, int, int]  # rows, columns and channels of a map


class ConvolutionNetwork:
    """Convolutions that run one after the other: float32 [B,3,size,size] -> the last map [B,F,h,w], float32.

    With `kind` onednn.BFLOAT16 weights and maps are rounded to bfloat16; products are added up in float32.
    A picture's map does not depend on its batch. Threads may share the network. Raises
    onednn.UnsupportedError where the processor has no code for that kind.
    """

    def __init__(
        self,
        convolutions: Sequence[Convolution],
        size: int,
        kind: int = onednn.BFLOAT16,
        budget: int = _BUDGET,
    ) -> None:
        sides, parts = all_sides(convolutions, size), chains(convolutions)
        first = cut(parts, sides)
        channels = {INPUT: 3, **{each.name: len(each.weight) for each in convolutions}}
        shapes = {name: (*sides[name], channels[name]) for name in sides}
        self._parts = [_Part(parts[:first], shapes, kind, budget, 1, not parts[first:])]
        if parts[first:]:
            self._parts.append(_Part(parts[first:], shapes, kind, budget, _TOGETHER, True))

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return the last maps of pictures."""
        rooms = [part.room() for part in self._parts]
        maps = np.empty((len(images), *rooms[-1].result.shape[1:]), np.float32)  # [B,h,w,F]
        before = onednn.set_one_thread()
        try:
            for start in range(0, len(images), len(rooms[-1].result)):
                some = images[start : start + len(rooms[-1].result)]
                for place, image in enumerate(some):
                    rooms[0].input[0] = image
                    rooms[0].run()
                    if len(rooms) > 1:
                        rooms[1].input[place] = rooms[0].result[0]
                if len(rooms) > 1:  # places without a picture hold what was there before
                    rooms[1].run()
                maps[start : start + len(some)] = rooms[-1].result[: len(some)]
        finally:
            onednn.set_threads(before)
        return maps.transpose(0, 3, 1, 2)


class _Part:
    """Chains of convolutions that run for some pictures at a time.

    The map that they read first is given: INPUT in float32, channel by channel, another one as the part
    before made it. The result is in float32 if the part `is_last`.
    """

    def __init__(
        self,
        parts: Sequence[Sequence[Convolution]],
        shapes: dict[str, Shape],
        kind: int,
        budget: int,
        pictures: int,
        is_last: bool,
    ) -> None:
        self._shapes, self._kind, self._pictures = shapes, kind, pictures
        self._sizes: list[int] = []  # bytes of each piece of memory that maps take turns in
        self._free: list[int] = []
        self._runs: list[_Run | _Copy] = []
        self._made: dict[tuple, _Made] = {}
        self._constants: dict[str, list[_Kept]] = {}
        self._scratch, self._of_thread = 0, threading.local()
        given, result = parts[0][0].source, parts[-1][-1]
        self._places = {given: self._take(self._bytes(given))}
        self._input = _Array(self._places[given], (pictures, *shapes[given]), kind)
        if given == INPUT:
            self._take_pictures()
        last_read = {
            name: number
            for number, chain in enumerate(parts)
            for each in chain
            for name in (each.source, *each.added)
        }
        for number, chain in enumerate(parts):
            ends = is_last and chain[-1] is result
            self._append(chain, budget if pictures == 1 else None, onednn.FLOAT32 if ends else kind)
            for name in [name for name in self._places if last_read.get(name) == number]:
                place = self._places.pop(name)
                if name not in chain[-1].added and name != given:  # else it is the new map's, or given
                    self._free.append(place)
        made = kind if not is_last or result.added else onednn.FLOAT32
        self._result = _Array(self._places[result.name], (pictures, *shapes[result.name]), made)
        if is_last and made != onednn.FLOAT32:
            self._widen_result()

    def room(self) -> "_Room":
        """Return the calling thread's memory."""
        if not hasattr(self._of_thread, "room"):
            self._of_thread.room = _Room(self._runs, self._sizes, self._scratch, self._input, self._result)
        return self._of_thread.room

    def _append(self, chain: Sequence[Convolution], budget: int | None, kind: int) -> None:
        """Append what runs a chain; its last map is of `kind`, unless it takes the memory of another."""
        first, last = chain[0], chain[-1]
        planned = plan(chain, self._shapes[first.source][:2], budget, _BYTES[self._kind])
        places = {first.source: self._places[first.source]}
        for each in chain[:-1]:
            rows, (height, _, _) = planned.buffers[each.name], self._shapes[each.name]
            places[each.name] = self._take(self._bytes(each.name) * rows // height)
        if last.added:
            places[last.name], kind = self._places[last.added[0]], self._kind
        else:
            places[last.name] = self._take(self._bytes(last.name, kind))
        for step in planned.steps:
            if isinstance(step, Move):
                row = self._bytes_of_row(step.name)
                self._runs.append(_Copy(places[step.name], step.start * row, step.count * row))
            else:
                self._run(step, places, kind if step.convolution is last else self._kind)
        self._places |= places

    def _run(self, step: Make, places: dict[str, int], kind: int) -> None:
        each = step.convolution
        made = self._compile(step, kind)
        weights, bias = made.constants
        source = _Place(places[each.source], step.read_at * self._bytes_of_row(each.source))
        result = _Place(places[each.name], step.made_at * self._bytes_of_row(each.name, kind))
        self._runs.append(
            _Run(
                made.compiled,
                [
                    (onednn.SOURCE, made.source, source),
                    (onednn.WEIGHTS, weights.layout, weights),
                    (onednn.BIAS, bias.layout, bias),
                    (onednn.DESTINATION, made.result, result),
                ],
            )
        )

    def _compile(self, step: Make, kind: int) -> "_Made":
        """Return the primitive of a step; steps of as many rows share it."""
        each = step.convolution
        key = each.name, step.read, step.made, step.padding
        if key in self._made:
            return self._made[key]
        (_, across, channels), (_, columns, out) = self._shapes[each.source], self._shapes[each.name]
        source = _describe((self._pictures, step.read, across, channels), self._kind)
        result = _describe((self._pictures, step.made, columns, out), kind)
        weight = each.weight
        if each.groups > 1:
            weight = weight.reshape(each.groups, out // each.groups, *weight.shape[1:])
        bias = onednn.describe(each.bias.shape, onednn.FLOAT32, (1,))
        top, left, bottom, right = step.padding
        compiled = onednn.Compiled(
            "dnnl_convolution_forward_primitive_desc_create",
            (
                *(onednn.engine(), _INFERENCE, _DIRECT, source, onednn.describe(weight.shape, self._kind)),
                *(bias, result, *map(_numbers, (each.stride, (0, 0), (top, left), (bottom, right)))),
            ),
            _steps(each.steps),
        )
        self._scratch = max(self._scratch, onednn.bytes_of(compiled.scratchpad))
        kept = self._constants.setdefault(each.name, [_kept(each.bias, bias)])
        wanted = compiled.layout(onednn.WEIGHTS_LAYOUT)
        packed = next((one for one in kept[1:] if onednn.are_equal(one.layout, wanted)), None)
        if packed is None:
            packed = _packed(weight, wanted)
            kept.append(packed)
        self._made[key] = _Made(compiled, source, result, (packed, kept[0]))
        return self._made[key]

    def _take_pictures(self) -> None:
        """Copy the pictures that are given into the layout and the kind of maps."""
        height, width, channels = self._shapes[INPUT]
        shape = self._pictures, channels, height, width
        given = self._take(self._bytes(INPUT, onednn.FLOAT32))
        source = onednn.describe(shape, onednn.FLOAT32, _strides(shape))
        self._copy(
            source, given, _describe((self._pictures, *self._shapes[INPUT]), self._kind), self._places[INPUT]
        )
        self._input = _Array(given, shape, onednn.FLOAT32)
        self._free.append(given)

    def _widen_result(self) -> None:
        place = self._take(int(np.prod(self._result.shape)) * _BYTES[onednn.FLOAT32])
        source, layout = (_describe(self._result.shape, kind) for kind in (self._kind, onednn.FLOAT32))
        self._copy(source, self._result.place, layout, place)
        self._result = _Array(place, self._result.shape, onednn.FLOAT32)

    def _copy(self, source: onednn.Layout, start: int, layout: onednn.Layout, place: int) -> None:
        copy = onednn.Primitive(source, layout)
        ends = (onednn.SOURCE, source, _Place(start)), (onednn.DESTINATION, layout, _Place(place))
        self._runs.append(_Run(copy, list(ends)))
        self._scratch = max(self._scratch, onednn.bytes_of(copy.scratchpad))

    def _bytes(self, name: str, kind: int | None = None) -> int:
        return self._pictures * self._shapes[name][0] * self._bytes_of_row(name, kind)

    def _bytes_of_row(self, name: str, kind: int | None = None) -> int:
        _, columns, channels = self._shapes[name]
        return columns * channels * _BYTES[kind or self._kind]

    def _take(self, size: int) -> int:
        """Return the number of a free piece of memory, the one that fits `size` bytes best."""
        fitting = [place for place in self._free if self._sizes[place] >= size]
        if fitting:
            place = min(fitting, key=self._sizes.__getitem__)
            self._free.remove(place)
            return place
        self._sizes.append(size)
        return len(self._sizes) - 1


@dataclass(frozen=True)
class _Place:
    """Where numbers begin: `offset` bytes after the beginning of a piece of memory."""

    number: int
    offset: int = 0


@dataclass(frozen=True)
class _Array:
    """Numbers of a kind that fill a piece of memory from its beginning."""

    place: int
    shape: tuple[int, ...]
    kind: int


@dataclass(frozen=True)
class _Kept:
    """Numbers that do not change: `address` lies within the memory `room`."""

    room: np.ndarray
    address: int
    layout: onednn.Layout


@dataclass(frozen=True)
class _Made:
    """A primitive, what it reads and makes, and its weights and biases."""

    compiled: onednn.Compiled
    source: onednn.Layout
    result: onednn.Layout
    constants: tuple[_Kept, _Kept]


@dataclass(frozen=True)
class _Run:
    """A primitive, and its arguments: a number, a description, and numbers or a place for them."""

    compiled: onednn.Compiled
    arguments: list[tuple[int, onednn.Layout, _Kept | _Place]]


@dataclass(frozen=True)
class _Copy:
    """Bytes that move to the beginning of a piece of memory, from `start` bytes after it."""

    place: int
    start: int
    count: int


class _Room:
    """The memory of one thread: `input` and `result` are arrays in it."""

    def __init__(
        self, runs: Sequence[_Run | _Copy], sizes: Sequence[int], scratch: int, given: _Array, result: _Array
    ) -> None:
        self._rooms = [onednn.aligned(size) for size in (*sizes, scratch)]
        self._addresses = [address for _, address in self._rooms]
        self._memories: list[onednn.Handle] = []
        self._calls = [self._call(run) for run in runs]
        self.input, self.result = self._array(given), self._array(result)

    def run(self) -> None:
        """Make `result` of `input`, on the calling thread alone if it may not start others."""
        with onednn.HeldSignals():
            for call in self._calls:
                onednn.check(call())

    def _call(self, run: _Run | _Copy) -> Callable[[], int]:
        if isinstance(run, _Copy):
            to = self._addresses[run.place]
            return lambda: ctypes.memmove(to, to + run.start, run.count) and 0
        scratch = onednn.SCRATCHPAD, run.compiled.scratchpad, _Place(len(self._addresses) - 1)
        made = []
        for number, layout, where in (*run.arguments, scratch):
            address = (
                where.address if isinstance(where, _Kept) else self._addresses[where.number] + where.offset
            )
            memory = onednn.memory(layout, address)
            self._memories.append(memory)
            made.append(onednn.Argument(number, memory.pointer))
        return run.compiled.on((onednn.Argument * len(made))(*made))

    def _array(self, array: _Array) -> np.ndarray:
        room, address = self._rooms[array.place]
        start, kind = address - room.ctypes.data, np.dtype(_NUMPY[array.kind])
        size = int(np.prod(array.shape)) * kind.itemsize
        return room[start : start + size].view(kind).reshape(array.shape)


def _describe(shape: Sequence[int], kind: int) -> onednn.Handle:
    """Return the description of maps [N,h,w,F] in which the channels of a pixel lie together."""
    pictures, height, width, channels = shape
    strides = height * width * channels, 1, width * channels, channels
    return onednn.describe((pictures, channels, height, width), kind, strides)


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
    """Return weights in the kind and the layout that a convolution wants."""
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
