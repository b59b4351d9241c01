"""Threads, math library, device and seeds: chosen before Paddle is imported, said in one line.

Paddle reads its environment once, when it is imported. As shipped it then runs a single OpenMP thread,
and its bundled MKL takes a slow path on AMD processors; so nothing here, nor in a tool that calls
`prepare_runtime`, may import Paddle at module level.
"""

import contextlib
import ctypes
import io
import os
import platform
import random
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

from config.errors import UserError

SHIPPED_MATH = "math library as shipped"
AMD_MATH = "MKL tuned for AMD"
CUSTOM_MATH = "MKL as MKL_DEBUG_CPU_TYPE says"
MKL_AVX2 = "5"  # the value of MKL_DEBUG_CPU_TYPE that means AVX2

# Parameters of glibc's mallopt, as malloc.h has them.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_NEVER, _OLDEST_MOST = 1 << 30, 32 << 20  # bytes; what glibc takes, and before 2.35

# glibc's fenv_t on x86-64 is eight words, the last of which is MXCSR.
_FENV_WORDS, _MXCSR = 8, 7
_FLUSH_TO_ZERO = 1 << 15

# What Paddle prints on import about settings that are made here on purpose.
_KNOWN_NOTICES = ("OMP_NUM_THREADS", "OpenBlas does not support", "No ccache found")


@dataclass(frozen=True)
class Runtime:
    """What a process runs on: `device` is cpu or gpu, `threads` counts CPU threads of this process."""

    device: str
    device_name: str
    threads: int
    math: str
    seed: int
    deterministic: bool
    paddle_version: str

    def describe(self) -> str:
        """Return the one start-up line that says what was chosen."""
        place = f"cpu x {self.threads} thread{'s' if self.threads != 1 else ''}, {self.math}"
        if self.device == "gpu":
            place = f"gpu ({self.device_name}), {place}"
        kernels = "deterministic" if self.deterministic else "nondeterministic kernels allowed"
        return f"runtime: paddle {self.paddle_version}, {place}, seed {self.seed}, {kernels}"


def prepare_runtime(
    device: str = "auto",
    threads: int = 0,
    seed: int = 123,
    deterministic: bool = True,
    local_processes: int = 1,
) -> Runtime:
    """Set the environment, import Paddle, choose the device and seed everything random.

    `device` is auto, cpu or gpu; `threads` is the CPU threads of this process, 0 for its share of all
    usable cores; `local_processes` is how many processes of the job run on this machine (the launcher's
    own count goes first). Raises UserError where the GPU is asked for and there is none, and
    RuntimeError where Paddle was imported before.
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
    name = paddle.device.cuda.get_device_name() if chosen == "gpu" else "cpu"
    return Runtime(chosen, name, threads, math, seed, deterministic, paddle.__version__)


def set_environment(threads: int = 0, local_processes: int = 1) -> tuple[int, str]:
    """Set threads, math library and verbosity in `os.environ`; return (threads, name of the math path).

    Raises RuntimeError where Paddle is imported already, since it would not notice.
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
    custom = os.environ.get("MKL_DEBUG_CPU_TYPE")
    if not has_avx2(cpuinfo) or custom not in (None, MKL_AVX2):
        # MKL's kernels before AVX2 round otherwise where arrays lie elsewhere: a resumed run would differ.
        os.environ.setdefault("MKL_CBWR", "AUTO")
    # Paddle's threads wait for the next operation on cores that NumPy's and our own need in between.
    os.environ.setdefault("KMP_BLOCKTIME", "1")  # milliseconds; 200 as shipped
    os.environ.setdefault("GLOG_minloglevel", "2")
    warnings.filterwarnings("ignore", message="No ccache found")
    if custom is None:
        return threads, SHIPPED_MATH
    return threads, AMD_MATH if custom == MKL_AVX2 else CUSTOM_MATH


def choose_threads(threads: int = 0, local_processes: int = 1) -> int:
    """Return the CPU threads of one process: `threads`, else OMP_NUM_THREADS, else a share of the cores.

    Under the launcher OMP_NUM_THREADS is the launcher's own 1, not the user's wish, and does not count.
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
    """Return the cores that this process may use: its affinity mask, within its container's quota."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = container_quota(Path("/sys/fs/cgroup"), _read_text(Path("/proc/self/cgroup")))
    return cores if quota is None else max(1, min(cores, int(quota)))


def container_quota(root: Path, membership: str) -> float | None:
    """Return the tightest CPU quota, in cores, of a control group and its ancestors; None for no limit.

    `root` is where control groups are mounted, `membership` the text of /proc/self/cgroup. Version 2
    says "QUOTA PERIOD" or "max PERIOD" in cpu.max; version 1 has a file for each, -1 for no limit.
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

    MKL asks for the vendor, not for the features, and gives such a processor its slowest kernels.
    """
    return _cpu_field(cpuinfo, "vendor_id") == ["AuthenticAMD"] and has_avx2(cpuinfo)


def has_avx2(cpuinfo: str) -> bool:
    """Tell whether the text of /proc/cpuinfo describes a processor with AVX2."""
    return "avx2" in _cpu_field(cpuinfo, "flags")


def _cpu_field(cpuinfo: str, name: str) -> list[str]:
    """Return the words of the first processor's field `name`; none where it has no such field."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.split()
    return []


def set_seed(seed: int) -> None:
    """Seed Python's, NumPy's and Paddle's generators."""
    import numpy
    import paddle

    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    paddle.seed(seed)


def flush_subnormals() -> None:
    """Let results below the smallest normal number (1e-38 in 32 bits) be zero, in all threads to come.

    Such numbers take the CPU a hundred times as long. They come up where gates saturate, and in Adam's
    moments of rare words, which shrink for ever. What is read stays as it is: features of 16 bits become
    such numbers on their way to 32.
    """
    if platform.machine() != "x86_64":
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library: slower, no less right
        libm = ctypes.CDLL("libm.so.6")
        environment = (ctypes.c_uint32 * _FENV_WORDS)()
        if libm.fegetenv(environment) == 0:
            environment[_MXCSR] |= _FLUSH_TO_ZERO
            libm.fesetenv(environment)


def keep_freed_memory() -> None:
    """Let large arrays use the memory of those before them; glibc would ask the system each time.

    New pages are zeroed by the system at first touch, a tenth of a training step on the CPU, and threads that
    make batches wait for each other there.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library: it does what it does
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_THRESHOLD, _NEVER) or libc.mallopt(_M_MMAP_THRESHOLD, _OLDEST_MOST)
        libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)


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
    """Import Paddle without its notices about settings that are made here on purpose."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            import paddle  # noqa: F401
    finally:
        for line in printed.getvalue().splitlines():
            if not any(notice in line for notice in _KNOWN_NOTICES):
                print(line, file=sys.stderr)


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
