"""Chooses threads, math library, device and seeds before Paddle is imported, and reports them in one line.

Paddle reads its environment once, at import. With its defaults it runs a single OpenMP thread, and its
bundled MKL takes a slow path on AMD processors. So neither this module nor a tool that calls
`prepare_runtime` may import Paddle at module level.
"""

import contextlib
import ctypes
import io
import logging
import os
import platform
import random
import signal
import sys
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path

from config.errors import UserError
from config.machine.numpy_kernels import choose_numpy_kernels, cpu_field

SHIPPED_MATH = "math library as shipped"
AMD_MATH = "MKL tuned for AMD"
CUSTOM_MATH = "MKL as MKL_DEBUG_CPU_TYPE says"
MKL_AVX2 = "5"  # the value of MKL_DEBUG_CPU_TYPE that means AVX2

# Parameters of glibc's mallopt, as malloc.h has them.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_NEVER, _OLDEST_MOST = 1 << 30, 32 << 20  # bytes: the largest threshold of glibc, and of glibc before 2.35

# glibc's fenv_t on x86-64 is eight words, the last of which is MXCSR.
_FENV_WORDS, _MXCSR = 8, 7
_FLUSH_TO_ZERO = 1 << 15

# Parts of the notices that Paddle prints on import about settings that this module makes on purpose.
_KNOWN_NOTICES = ("OMP_NUM_THREADS", "OpenBlas does not support", "No ccache found")


@dataclass(frozen=True)
class Runtime:
    """The choices for a process: `device` is cpu or gpu, `threads` is the number of its CPU threads."""

    device: str
    device_name: str
    threads: int
    math: str
    seed: int
    deterministic: bool
    paddle_version: str
    precision: str = "float32"

    def describe(self) -> str:
        """Return the start-up line that reports the choices."""
        place = f"cpu x {self.threads} thread{'s' if self.threads != 1 else ''}, {self.math}"
        if self.device == "gpu":
            place = f"gpu ({self.device_name}), {place}"
        kernels = "deterministic" if self.deterministic else "nondeterministic kernels allowed"
        line = f"runtime: paddle {self.paddle_version}, {place}, seed {self.seed}, {kernels}"
        if self.device != "cpu":
            return line
        from models.kernels.choice import chosen  # not before Paddle

        lowered = ", layers in bfloat16" if self.precision == "bfloat16" else ""
        return f"{line}; {chosen().describe()}{lowered}"


def prepare_runtime(
    device: str = "auto",
    threads: int = 0,
    seed: int = 123,
    deterministic: bool = True,
    local_processes: int = 1,
    products: str = "auto",
    precision: str = "float32",
) -> Runtime:
    """Set the environment, import Paddle, choose the device and seed all random generators.

    `device` is auto, cpu or gpu. `threads` is the number of CPU threads of this process, 0 for its share of
    all usable cores. `local_processes` is the number of the job's processes on this machine; the launcher's
    own count takes precedence. `products` is the library that multiplies on the CPU
    (`models/kernels/choice.py`), and `precision` is what layers multiply there
    (`models/kernels/precision.py`). Raises UserError for a GPU, a library or a precision that is not there,
    and RuntimeError if Paddle is imported already.
    """
    threads, math = set_environment(threads, local_processes)
    flush_subnormals()
    if deterministic:
        os.environ["FLAGS_cudnn_deterministic"] = "1"
        os.environ["FLAGS_embedding_deterministic"] = "1"
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    _import_paddle_quietly()
    import paddle

    keep_freed_memory()
    chosen = _set_device(device)
    set_seed(seed)
    from models.kernels.choice import choose
    from models.kernels.precision import set_precision

    choose(products)
    precision = set_precision(precision if chosen == "cpu" else "float32")
    name = paddle.device.cuda.get_device_name() if chosen == "gpu" else "cpu"
    return Runtime(chosen, name, threads, math, seed, deterministic, paddle.__version__, precision)


def set_environment(threads: int = 0, local_processes: int = 1) -> tuple[int, str]:
    """Set threads, math library and verbosity in `os.environ`; return (threads, name of the math library).

    Raises RuntimeError if Paddle is imported already, since it would ignore the settings.
    """
    if "paddle" in sys.modules:
        raise RuntimeError(
            "expected Paddle not to be imported before the runtime is prepared, but it is: "
            "move the import of whatever imports paddle below prepare_runtime()"
        )
    threads = choose_threads(threads, local_processes)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    cpuinfo = _read_text(Path("/proc/cpuinfo"))
    if mkl_needs_help(cpuinfo):
        os.environ.setdefault("MKL_DEBUG_CPU_TYPE", MKL_AVX2)
    choose_numpy_kernels(cpuinfo)
    custom = os.environ.get("MKL_DEBUG_CPU_TYPE")
    if not has_avx2(cpuinfo) or custom not in (None, MKL_AVX2):
        # MKL's kernels before AVX2 round otherwise where arrays lie elsewhere: a resumed run would differ.
        os.environ.setdefault("MKL_CBWR", "AUTO")
    # Paddle's threads spin while they wait for the next operation, on cores that other threads need
    # meanwhile.
    os.environ.setdefault("KMP_BLOCKTIME", "1")  # milliseconds; 200 as shipped
    os.environ.setdefault("GLOG_minloglevel", "2")
    warnings.filterwarnings("ignore", message="No ccache found")
    if custom is None:
        return threads, SHIPPED_MATH
    return threads, AMD_MATH if custom == MKL_AVX2 else CUSTOM_MATH


def choose_threads(threads: int = 0, local_processes: int = 1) -> int:
    """Return the CPU threads of one process: `threads`, else OMP_NUM_THREADS, else a share of the cores.

    Under the launcher, OMP_NUM_THREADS is ignored: the launcher sets it to 1 by itself.
    """
    launched = "PADDLE_TRAINER_ID" in os.environ
    if threads > 0:
        return threads
    asked = os.environ.get("OMP_NUM_THREADS", "").strip()
    if asked and not launched:
        outermost = asked.split(",")[0].strip()  # OpenMP allows a list, one number per nesting level
        if not outermost.isdecimal() or int(outermost) < 1:
            raise UserError(
                f"OMP_NUM_THREADS: expected a positive number, got {asked!r} in the environment; "
                "unset it or set RUNTIME.THREADS"
            )
        return int(outermost)
    if launched:
        local_processes = int(os.environ.get("PADDLE_LOCAL_SIZE", local_processes))
    return max(1, usable_cores() // max(1, local_processes))


def usable_cores() -> int:
    """Return the number of cores that the affinity mask and the container's quota let this process use."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = container_quota(Path("/sys/fs/cgroup"), _read_text(Path("/proc/self/cgroup")))
    return cores if quota is None else max(1, min(cores, int(quota)))


def container_quota(root: Path, membership: str) -> float | None:
    """Return the tightest CPU quota, in cores, of a control group and its ancestors; None for no limit.

    `root` is where control groups are mounted; `membership` is the text of /proc/self/cgroup. Version 2 of
    control groups has "QUOTA PERIOD" or "max PERIOD" in cpu.max; version 1 has a file for each of the two
    numbers, and a quota of -1 for no limit.
    """
    quotas = []
    for line in membership.splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "cpu" if controllers else root
        folder = mount / name.strip("/")
        for group in (folder, *folder.parents):
            if controllers:
                limits = [_read_text(group / f"cpu.cfs_{part}_us").strip() for part in ("quota", "period")]
            else:
                limits = _read_text(group / "cpu.max").split()
            if len(limits) == 2 and limits[0].isdecimal() and limits[1].isdecimal() and int(limits[1]) > 0:
                quotas.append(int(limits[0]) / int(limits[1]))
            if group == mount:
                break
    return min(quotas, default=None)


def mkl_needs_help(cpuinfo: str) -> bool:
    """Tell whether the text of /proc/cpuinfo describes an AMD processor with AVX2.

    MKL tests for the vendor instead of the features, and runs its slowest kernels on such a processor.
    """
    return cpu_field(cpuinfo, "vendor_id") == ["AuthenticAMD"] and has_avx2(cpuinfo)


def has_avx2(cpuinfo: str) -> bool:
    """Tell whether the text of /proc/cpuinfo describes a processor with AVX2."""
    return "avx2" in cpu_field(cpuinfo, "flags")


def set_seed(seed: int) -> None:
    """Seed the random generators of Python, NumPy and Paddle."""
    import numpy
    import paddle

    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    paddle.seed(seed)


def flush_subnormals() -> None:
    """Flush subnormal results (in float32, below 1e-38) to zero (FTZ), in this thread and all later ones.

    Operations on subnormal numbers take the CPU a hundred times as long. Saturated gates produce them, and so
    do Adam's moments of rare words, which decay for ever. Subnormal inputs are kept (no DAZ): converting
    float16 features to float32 passes through them.
    """
    if platform.machine() != "x86_64":
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library: slower, equally correct
        libm = ctypes.CDLL("libm.so.6")
        environment = (ctypes.c_uint32 * _FENV_WORDS)()
        if libm.fegetenv(environment) == 0:
            environment[_MXCSR] |= _FLUSH_TO_ZERO
            libm.fesetenv(environment)


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory for the next large array, instead of returning it to the system.

    The system zeroes new pages at first touch: a tenth of a training step on the CPU, and a lock that the
    threads which make batches wait for. All threads share what is kept: with memory of its own for each, the
    largest evaluation of pictures takes 0.16 GB more.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library: its own way is kept
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_THRESHOLD, _NEVER) or libc.mallopt(_M_MMAP_THRESHOLD, _OLDEST_MOST)
        libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)
        libc.mallopt(_M_ARENA_MAX, 1)


def _set_device(device: str) -> str:
    import paddle

    compiled = paddle.device.is_compiled_with_cuda()
    cards = paddle.device.cuda.device_count() if compiled else 0
    if device == "gpu" and not cards:
        reason = "no GPU is visible" if compiled else "this is Paddle's CPU build"
        remedy = "check nvidia-smi" if compiled else "install requirements-gpu.txt"
        raise UserError(f"RUNTIME.DEVICE: expected a GPU, but {reason}; {remedy}, or set it to auto or cpu")
    chosen = "gpu" if cards and device != "cpu" else "cpu"
    paddle.device.set_device(chosen)
    return chosen


def _import_paddle_quietly() -> None:
    """Import Paddle, and drop the known notices from what it prints.

    Its import takes SIGTERM over, which is given back to a handler of this process; one that comes meanwhile
    waits for that.
    """
    printed, handler = io.StringIO(), signal.getsignal(signal.SIGTERM)
    waits = callable(handler) and threading.current_thread() is threading.main_thread()
    if waits:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        with contextlib.redirect_stderr(printed):
            import paddle  # noqa: F401
    finally:
        # A package of Paddle's sets logging up; what it left would take all logs of this process.
        for kept in [each for each in logging.root.handlers if getattr(each, "stream", None) is printed]:
            logging.root.removeHandler(kept)
        for line in printed.getvalue().splitlines():
            if not any(notice in line for notice in _KNOWN_NOTICES):
                print(line, file=sys.stderr)
        if waits:
            signal.signal(signal.SIGTERM, handler)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
