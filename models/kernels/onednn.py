"""The part of oneDNN's C interface that products and convolutions need, and how long what it returns lives.

Paddle's wheels for x86-64 contain oneDNN, which writes its code for the processor at hand while it runs, with
AVX2, AVX-512, or the instructions for bfloat16 of AVX-512 and AMX. Here each call runs on the calling thread
alone, as those of `models/kernels/mkl.py` do; `onednn_products.py` beside this file makes products of it, and
`onednn_convolutions.py` networks. Paddle is not imported, which takes longer than many an extraction.
Names and numbers are those of oneDNN's headers dnnl.h and dnnl_types.h, version 3.
"""

import contextlib
import ctypes
import functools
import importlib.util
import signal
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from config.machine.threads import is_helper

# dnnl_data_type_t, dnnl_format_tag_t, dnnl_query_t, and the arguments of a primitive.
BFLOAT16, FLOAT32, INT8, UNDEFINED = 2, 3, 5, 0
_ANY_LAYOUT = 1
SOURCE_LAYOUT, WEIGHTS_LAYOUT, DESTINATION_LAYOUT, SCRATCHPAD_LAYOUT = 129, 131, 133, 136
SOURCE, WEIGHTS, BIAS, DESTINATION, SCRATCHPAD = 1, 33, 41, 17, 80
_CPU, _IN_ORDER, _SUCCESS, _UNIMPLEMENTED, _USER_SCRATCHPAD = 1, 1, 0, 3, 1
_WIDE_VECTORS = 0x20  # the bit of dnnl_cpu_isa_t that every kind from avx512_core on has
_BYTE_INSTRUCTIONS = 0x40  # that which every kind from avx512_core_vnni on has
_BFLOAT16_INSTRUCTIONS = 0x80  # that which every kind from avx512_core_bf16 on has
_TILE_INSTRUCTIONS = 0x800  # that which every kind with AMX for bfloat16 has
_GELU = 0x31  # dnnl_eltwise_gelu_erf of dnnl_alg_kind_t
_MAJOR_VERSION = 3
_ALIGNMENT = 64  # bytes

_one_at_a_time = threading.Lock()  # a cached function may run twice where two threads ask at once


class Argument(ctypes.Structure):
    """dnnl_exec_arg_t: which argument of a primitive, and the memory object of it."""

    _fields_ = (("number", ctypes.c_int), ("memory", ctypes.c_void_p))


class _Version(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int) for name in ("major", "minor", "patch")),
        ("hash", ctypes.c_char_p),
        *((name, ctypes.c_uint) for name in ("cpu_runtime", "gpu_runtime")),
    )


class UnsupportedError(RuntimeError):
    """oneDNN has no code for this operation on this processor."""


class Handle:
    """An object of oneDNN's, made by its function `maker` and destroyed with this object."""

    def __init__(self, maker: str, destroyer: str, *arguments: object) -> None:
        self.pointer = self._as_parameter_ = (
            ctypes.c_void_p()
        )  # ctypes passes the latter in place of the object
        call(maker, ctypes.byref(self.pointer), *arguments)
        at_end = weakref.finalize(self, getattr(library(), destroyer), self.pointer)
        at_end.atexit = False  # the system frees what is left when the process ends


Layout = Handle | ctypes.c_void_p  # a description of a matrix, ours or one that a primitive has


def call(function: str, *arguments: object) -> None:
    """Call a function of oneDNN's; raises UnsupportedError, or RuntimeError with its status."""
    status = getattr(library(), function)(*arguments)
    if status == _UNIMPLEMENTED:
        raise UnsupportedError(function)
    if status != _SUCCESS:
        raise RuntimeError(f"{function} of oneDNN {version()} returned {status}")


def describe(shape: Sequence[int], kind: int, strides: Sequence[int] | None = None) -> Handle:
    """Return the description of a matrix of `shape`; `strides` count numbers, None lets oneDNN choose."""
    sizes, destroyer = (ctypes.c_int64 * len(shape))(*shape), "dnnl_memory_desc_destroy"
    if strides is None:
        maker, layout = "dnnl_memory_desc_create_with_tag", _ANY_LAYOUT
    else:
        maker, layout = "dnnl_memory_desc_create_with_strides", (ctypes.c_int64 * len(shape))(*strides)
    return Handle(maker, destroyer, len(shape), sizes, kind, layout)


def copy_of(description: Layout) -> Handle:
    """Return a copy of a description, which outlives the primitive that chose it."""
    return Handle("dnnl_memory_desc_clone", "dnnl_memory_desc_destroy", description)


def bytes_of(description: Layout) -> int:
    """Return the size of the memory that a description asks for."""
    return library().dnnl_memory_desc_get_size(description)


def are_equal(description: Layout, other: Layout) -> bool:
    """Tell whether two descriptions are of the same shape, kind and layout."""
    return bool(library().dnnl_memory_desc_equal(description, other))


def aligned(size: int) -> tuple[np.ndarray, int]:
    """Return memory for `size` bytes, and the address at which they start on a cache line."""
    room = np.empty(size + _ALIGNMENT, np.uint8)
    return room, -(-room.ctypes.data // _ALIGNMENT) * _ALIGNMENT


class Compiled:
    """What oneDNN compiled for this processor and one thread, of `arguments` to its function `maker`.

    `steps` are the operations that follow within it, None for none; `scratchpad` describes the memory that it
    needs beside its arguments. Raises UnsupportedError.
    """

    def __init__(self, maker: str, arguments: Sequence[object], steps: Handle | None = None) -> None:
        attributes = Handle("dnnl_primitive_attr_create", "dnnl_primitive_attr_destroy")
        call("dnnl_primitive_attr_set_scratchpad_mode", attributes, _USER_SCRATCHPAD)
        if steps is not None:
            call("dnnl_primitive_attr_set_post_ops", attributes, steps)
        before = set_one_thread()
        try:
            self._description = Handle(maker, "dnnl_primitive_desc_destroy", *arguments, attributes)
            self._primitive = Handle("dnnl_primitive_create", "dnnl_primitive_destroy", self._description)
        finally:
            set_threads(before)
        self.scratchpad = self.layout(SCRATCHPAD_LAYOUT)

    def layout(self, which: int) -> ctypes.c_void_p:
        """Return how an argument has to lie, such as WEIGHTS_LAYOUT: oneDNN may have chosen."""
        found = library().dnnl_primitive_desc_query_md(self._description, which, 0)
        return ctypes.c_void_p(found)

    def on(self, arguments: ctypes.Array) -> Callable[[], int]:
        """Return a function that runs on the memory that each `Argument` names, and returns its status.

        It is for threads that start no others (`set_one_thread`) and get no signals (`HeldSignals`); `check`
        reads the status.
        """
        return functools.partial(
            library().dnnl_primitive_execute, self._primitive, stream(), len(arguments), arguments
        )

    def run(self, arguments: ctypes.Array) -> None:
        """Run on the memory that each `Argument` names, on the calling thread."""
        run = self.on(arguments)
        if _is_alone():
            check(run())
            return
        before = set_one_thread()
        with HeldSignals():
            status = run()
        set_threads(before)
        check(status)


_of_thread = threading.local()


def _is_alone() -> bool:
    """Tell whether the calling thread starts no others and gets no signals for good, as helpers do."""
    found = getattr(_of_thread, "is_alone", None)
    if found is None:
        found = _of_thread.is_alone = is_helper()
        if found:
            set_one_thread()
            HeldSignals().__enter__()
    return found


class HeldSignals:
    """Signals to the calling thread wait until the end of a `with` block.

    The system handles a signal on the stack of the thread that it interrupts. oneDNN's code for AVX2 keeps
    what it needs where the handler writes: a stop (SIGTERM, Ctrl-C) that came during a product damaged the
    memory of the process, which then hung or was aborted in place of saving its state.
    """

    def __enter__(self) -> None:
        self._before = _SignalSet()
        _signal_mask()(signal.SIG_BLOCK, _held(), self._before)

    def __exit__(self, *exception: object) -> None:
        _signal_mask()(signal.SIG_SETMASK, self._before, None)


_SignalSet = ctypes.c_uint64 * 16  # sigset_t of Linux; no other system has a larger one


@functools.cache
def _signal_mask() -> ctypes._CFuncPtr:
    return ctypes.PyDLL(None).pthread_sigmask  # it keeps the interpreter lock: shorter than to release it


@functools.cache
def _held() -> ctypes.Array:
    """Return all signals but those by which the system tells of a mistake of the program."""
    system, found = ctypes.PyDLL(None), _SignalSet()
    system.sigfillset(found)
    for mistake in (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT):
        system.sigdelset(found, mistake)
    return found


def check(status: int) -> None:
    """Raise RuntimeError unless a primitive has run."""
    if status != _SUCCESS:
        raise RuntimeError(f"oneDNN {version()} returned {status} for a primitive that it had made")


class Primitive(Compiled):
    """A product, or a copy into another layout.

    `source`, `weights` and `destination` are descriptions. A product has all three, and is added to `add`
    times its destination; without `weights` the source is copied into the layout of the destination. A `bias`
    [1,N] is added to each row of the product, and of what that makes gelu is the result.
    """

    def __init__(
        self,
        source: Layout,
        destination: Layout,
        weights: Layout | None = None,
        add: float = 0,
        bias: Layout | None = None,
    ) -> None:
        steps = None
        if add or bias:
            steps = Handle("dnnl_post_ops_create", "dnnl_post_ops_destroy")
        if add:
            append_sum(steps, add)
        if bias:
            call("dnnl_post_ops_append_eltwise", steps, _GELU, ctypes.c_float(0), ctypes.c_float(0))
        if weights is None:
            maker, shapes = (
                "dnnl_reorder_primitive_desc_create",
                (source, engine(), destination, engine()),
            )
        else:
            maker, shapes = (
                "dnnl_matmul_primitive_desc_create",
                (engine(), source, weights, bias, destination),
            )
        super().__init__(maker, shapes, steps)
        self.weights = self.layout(WEIGHTS_LAYOUT)


def append_sum(steps: Handle, scale: float = 1) -> None:
    """Append to the steps of a primitive that it is added to `scale` times what its destination holds."""
    call("dnnl_post_ops_append_sum", steps, ctypes.c_float(scale), 0, UNDEFINED)


def memory(description: Layout, address: int = 0) -> Handle:
    """Return the memory object of the numbers at `address`, which lie as the description says."""
    arguments = description, engine(), ctypes.c_void_p(address)
    return Handle("dnnl_memory_create", "dnnl_memory_destroy", *arguments)


@functools.cache
def address_setter() -> ctypes._CFuncPtr:
    """Return oneDNN's function that moves a memory object to an address.

    It keeps the interpreter lock: to get that back from the other thread may take as long as a small product.
    """
    found = ctypes.PyDLL(library()._name).dnnl_memory_set_data_handle
    found.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    return found


def set_one_thread() -> list[int]:
    """Keep the calling thread from starting others; return what `set_threads` does."""
    return set_threads([1] * len(_openmp()))


def set_threads(numbers: Sequence[int]) -> list[int]:
    """Set how many threads the calling thread may start in each OpenMP library; return the numbers before.

    A primitive is compiled for the number that holds when it is made.
    """
    before = []
    for (get, put), number in zip(_openmp(), numbers, strict=True):
        before.append(get())
        put(number)
    return before


def has_wide_vectors() -> bool:
    """Tell whether oneDNN is there and this processor has vectors of 16 numbers (AVX-512)."""
    return library() is not None and bool(library().dnnl_get_effective_cpu_isa() & _WIDE_VECTORS)


def has_bfloat16() -> bool:
    """Tell whether oneDNN is there and this processor multiplies bfloat16 by instructions of its own."""
    return library() is not None and bool(library().dnnl_get_effective_cpu_isa() & _BFLOAT16_INSTRUCTIONS)


def has_tiles() -> bool:
    """Tell whether oneDNN is there and this processor multiplies bfloat16 in tiles of a matrix (AMX)."""
    return library() is not None and bool(library().dnnl_get_effective_cpu_isa() & _TILE_INSTRUCTIONS)


def has_byte_products() -> bool:
    """Tell whether oneDNN is there and this processor adds products of bytes up exactly (VNNI, AMX).

    Older instructions add two of them in 16 bits, which may not hold the sum.
    """
    return library() is not None and bool(library().dnnl_get_effective_cpu_isa() & _BYTE_INSTRUCTIONS)


def version() -> str:
    """Return the version of the library, such as 3.6.2."""
    found = library().dnnl_version().contents
    return f"{found.major}.{found.minor}.{found.patch}"


def engine() -> ctypes.c_void_p:
    """Return oneDNN's processor: the same to all threads, or their objects would not go together."""
    with _one_at_a_time:
        return _engine()


def stream() -> ctypes.c_void_p:
    """Return oneDNN's queue, which on a processor runs each primitive at once."""
    with _one_at_a_time:
        return _stream()


@functools.cache
def _engine() -> ctypes.c_void_p:
    made = ctypes.c_void_p()
    call("dnnl_engine_create", ctypes.byref(made), _CPU, ctypes.c_size_t(0))
    return made


@functools.cache
def _stream() -> ctypes.c_void_p:
    made = ctypes.c_void_p()
    call("dnnl_stream_create", ctypes.byref(made), _engine(), _IN_ORDER)
    return made


@functools.cache
def _openmp() -> list[tuple[ctypes._CFuncPtr, ctypes._CFuncPtr]]:
    """Return the getter and setter of threads of each OpenMP library that may serve oneDNN.

    oneDNN is linked to GNU's. Paddle loads it together with LLVM's, which offers the same names first. The
    calls keep the interpreter lock.
    """
    found = []
    for name in (_libraries() / "libiomp5.so", "libgomp.so.1"):
        with contextlib.suppress(OSError):
            openmp = ctypes.PyDLL(str(name))
            found.append((openmp.omp_get_max_threads, openmp.omp_set_num_threads))
    return found


def _libraries() -> Path:
    return Path(importlib.util.find_spec("paddle").origin).parent / "libs"  # found without importing it


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the oneDNN that Paddle contains, or None if this build has none, or another major version."""
    path = _libraries() / "libdnnl.so.3" if importlib.util.find_spec("paddle") else None
    if path is None or not path.exists():
        return None
    found = ctypes.CDLL(str(path))
    found.dnnl_version.restype = ctypes.POINTER(_Version)
    if found.dnnl_version().contents.major != _MAJOR_VERSION:
        return None
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    found.dnnl_primitive_desc_query_md.restype = pointer
    found.dnnl_primitive_desc_query_md.argtypes = [pointer, integer, integer]
    found.dnnl_memory_desc_get_size.restype = ctypes.c_size_t
    found.dnnl_memory_desc_get_size.argtypes = [pointer]
    found.dnnl_memory_desc_equal.argtypes = [pointer, pointer]
    found.dnnl_primitive_execute.argtypes = [pointer, pointer, integer, pointer]
    return found
