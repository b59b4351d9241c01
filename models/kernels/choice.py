"""Which library multiplies matrices: measured once for a machine, or set by hand.

No rule would be right on every processor: of two libraries in one wheel, one is faster on Intel's and the
other on AMD's. So the first product measures them, and the choice is kept in a file of the user's cache
folder, for this processor and these versions: two runs choose alike, and add up in the same order. Measured
along with them is what no rule tells either: whether products of bfloat16 or of whole numbers are quicker
than those of float32. A processor may have instructions for bfloat16 that take twice as long.
"""

import functools
import hashlib
import json
import os
import platform
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from config.errors import UserError
from config.machine.threads import num_threads
from models.kernels import mkl, mkl_products, numpy_products, onednn, onednn_products

NAMES = {"mkl": "MKL", "onednn": "oneDNN", "numpy": "NumPy"}
AUTO = "auto"
# Kinds of products, and those that are measured: numbers of rows M, and the sizes K and N of the matrix.
# The packed one is as large as recurrent weights, which the second-level cache does not hold. It is
# multiplied with few rows, too, as at the last words of long captions: libraries differ there most.
KINDS = {"packed": ((8, 64), 1024, 1024), "plain": ((256,), 512, 512)}
# Products of numbers that may be rounded: of a screen, to 8 significant bits or only to 16, and of layers.
COARSE, FINE, LAYERS = PURPOSES = "coarse", "fine", "layers"
FLOAT32, BFLOAT16, INT16, DIGITS = "float32", "bfloat16", "int16", "digits"  # what they are products of
_ROUNDED = 128, 512, 512  # the sizes of such a product
# Seconds for all rounds but the first, in which code is compiled. Where rounds still shorten a time, more
# follow, up to the limit: what other processes do meanwhile would be kept for good.
_BUDGET, _LIMIT, _CALM, _SHORTER = 0.04, 0.3, 2, 0.97
_MARGIN = 0.95  # a later library must take less than this share of the time of an earlier one
_FOLDER = "image-text-retrieval"


@dataclass(frozen=True)
class Choice:
    """The library for each kind of product, and where the choice comes from.

    `packed` multiplies by matrices that are packed once, `plain` all others. `coarse`, `fine` and `layers`
    are what is quickest to multiply where numbers may be rounded.
    """

    packed: str
    plain: str
    origin: str
    coarse: str = FLOAT32
    fine: str = FLOAT32
    layers: str = FLOAT32

    def describe(self) -> str:
        """Return the choice in words, such as `products by MKL (measured)`."""
        names = NAMES[self.packed], NAMES[self.plain]
        by = names[0] if names[0] == names[1] else f"{names[0]}, unpacked ones by {names[1]}"
        return f"products by {by} ({self.origin})"

    def libraries(self) -> dict[str, str]:
        """Return the library of each kind, as a checkpoint keeps them."""
        return {kind: getattr(self, kind) for kind in KINDS}


_lock = threading.Lock()
_chosen: Choice | None = None


def available() -> list[str]:
    """Return the names of the libraries that are here, those first that were tried on most processors."""
    there = {"mkl": mkl.library() is not None, "onednn": onednn.library() is not None, "numpy": True}
    return [name for name, is_there in there.items() if is_there]


def choose(name: str) -> None:
    """Let the library `name` multiply from now on, or with "auto" the one that is measured at the first need.

    Raises UserError for a library that is not here.
    """
    global _chosen
    if name != AUTO and name not in available():
        here = ", ".join([AUTO, *available()])
        raise UserError(
            f"RUNTIME.PRODUCTS: expected a library that is here ({here}), got {name}: "
            f"this build of Paddle contains none that works; set it to auto"
        )
    _chosen = None if name == AUTO else Choice(name, name, "set by RUNTIME.PRODUCTS")


def repeat(libraries: dict[str, str]) -> bool:
    """Choose the `libraries` of a checkpoint if they are here; tell whether they are chosen now.

    A choice by hand stays.
    """
    global _chosen
    now = chosen()
    if libraries == now.libraries():
        return True
    known = set(libraries) == set(KINDS) and set(libraries.values()) <= set(available())
    if not known or now.origin.startswith("set by"):
        return False
    _chosen = Choice(**libraries, origin="as in the checkpoint")
    return True


def chosen() -> Choice:
    """Return the choice; without one, take that of an earlier process on this machine, or measure."""
    global _chosen
    if _chosen is None:
        _chosen = _of_machine()
    return _chosen


def quickest(purpose: str) -> str:
    """Return what is quickest to multiply for one of `PURPOSES`: one of `numbers_of(purpose)`.

    It is measured as libraries are, whichever of them was chosen by hand.
    """
    found = getattr(_of_machine(), purpose)
    return found if found in numbers_of(purpose) else FLOAT32  # what is not here any more


def numbers_of(purpose: str) -> list[str]:
    """Return what this processor can multiply for one of `PURPOSES`; FLOAT32 comes first."""
    there = {
        FLOAT32: True,
        INT16: purpose != LAYERS and mkl.library() is not None,
        DIGITS: purpose != LAYERS and onednn.has_byte_products(),
        BFLOAT16: purpose != FINE and onednn.has_bfloat16(),
    }
    return [numbers for numbers, is_there in there.items() if is_there]


def _of_machine() -> Choice:
    with _lock:
        return _kept_or_measured()


@functools.cache
def _kept_or_measured() -> Choice:
    here = available()
    if here == ["numpy"]:
        return Choice("numpy", "numpy", "the only library here")
    path = _cache_file()
    found = read_choice(path, here)
    if found is None:
        found = keep_choice(path, measure(here), here)
    return found


def measure(names: list[str]) -> Choice:
    """Return the fastest of the libraries `names` for each kind of product, measured in a tenth of a second.

    On a busy machine, it takes three times as long. So are the numbers to multiply where they may be rounded.
    The calling thread measures alone; NumPy, which takes all threads, must be as fast as all together.
    """
    best: dict[tuple[str, str], float] = {}
    work = {(kind, name): _product(kind, name) for kind in KINDS for name in names}
    # A screen may multiply whatever is multiplied for the other purposes: one measurement is enough.
    work |= {(COARSE, numbers): _rounded_product(numbers) for numbers in numbers_of(COARSE)[1:]}
    _measure_once(work, {})  # code is compiled
    started, calm = time.perf_counter(), 0
    while (spent := time.perf_counter() - started) < _BUDGET or (calm < _CALM and spent < _LIMIT):
        calm = 0 if _measure_once(work, best) else calm + 1
    fastest = {kind: _fastest({name: best[kind, name] for name in names}) for kind in KINDS}
    single = best["plain", fastest["plain"]] * _ROUNDED[0] / sum(KINDS["plain"][0])
    for purpose in PURPOSES:
        rounded = {numbers: best[COARSE, numbers] for numbers in numbers_of(purpose)[1:]}
        fastest[purpose] = _fastest({FLOAT32: single, **rounded})
    return Choice(**fastest, origin="measured")


def _measure_once(
    work: dict[tuple[str, str], Callable[[], object]], best: dict[tuple[str, str], float]
) -> bool:
    """Keep the best seconds of each product; tell whether one took a shorter time than ever before.

    They are those of the calling thread, which waits for no other process. Of NumPy, which takes all threads,
    they are those of the clock, once for each thread.
    """
    shorter = False
    for key, multiply in work.items():
        clock, threads = (time.perf_counter, num_threads()) if key[1] == "numpy" else (time.thread_time, 1)
        started = clock()
        multiply()
        taken = threads * (clock() - started)
        shorter |= taken < _SHORTER * best.get(key, np.inf)
        best[key] = min(best.get(key, taken), taken)
    return shorter


def _fastest(seconds: dict[str, float]) -> str:
    first, *others = seconds
    for each in others:
        if seconds[each] < _MARGIN * seconds[first]:
            first = each
    return first


def _product(kind: str, name: str) -> Callable[[], object]:
    rows, depth, width = KINDS[kind]
    matrix = np.ones((depth, width), np.float32)
    sides = [(np.ones((count, depth), np.float32), np.empty((count, width), np.float32)) for count in rows]
    if kind == "packed":
        packers = mkl_products.PackedMatrix, onednn_products.PackedMatrix, numpy_products.PackedMatrix
        packed = dict(zip(NAMES, packers, strict=True))[name](matrix)
        return lambda: [packed.multiply(x, out) for x, out in sides]
    multipliers = mkl.multiply_on_one_thread, onednn_products.multiply, numpy_products.multiply
    multiply = dict(zip(NAMES, multipliers, strict=True))[name]
    return lambda: [multiply(x, matrix, out) for x, out in sides]


def _rounded_product(numbers: str) -> Callable[[], object]:
    rows, depth, width = _ROUNDED
    if numbers == DIGITS:  # three products of bytes are one, as in `engine/ranking/coarse.py`
        depth *= 3
    kind = {INT16: np.int16, DIGITS: np.int8, BFLOAT16: np.uint16}[numbers]
    x, y = np.ones((rows, depth), kind), np.ones((width, depth), kind)
    if numbers == INT16:
        return lambda: mkl.multiply_integers_on_one_thread(x, y.T)
    out = np.empty((rows, width), np.float32)
    return lambda: onednn_products.multiply(x, y.T, out)


def read_choice(path: Path, names: list[str]) -> Choice | None:
    """Return the choice among `names` that a file keeps; None for a file that is not there, or is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        libraries = {kind: content["libraries"][kind] for kind in KINDS}
        quick = {purpose: content["quickest"][purpose] for purpose in PURPOSES}
        if content["of"] != _machine() or not set(libraries.values()) <= set(names):
            return None
        if any(numbers not in numbers_of(purpose) for purpose, numbers in quick.items()):
            return None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return Choice(**libraries, **quick, origin="measured before")


def keep_choice(path: Path, choice: Choice, names: list[str]) -> Choice:
    """Write a choice for later processes, and return it, or that of a process that was faster.

    Where nothing can be written, each process measures.
    """
    quick = {purpose: getattr(choice, purpose) for purpose in PURPOSES}
    content = {"of": _machine(), "libraries": choice.libraries(), "quickest": quick}
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if (others := read_choice(path, names)) is not None:
            return others
        path.unlink(missing_ok=True)  # what could not be used
        draft.write_text(json.dumps(content, indent=1), encoding="utf-8")
        try:
            os.link(draft, path)  # never over that of another process: all of a job choose alike
        except FileExistsError:
            return read_choice(path, names) or choice
        finally:
            draft.unlink()
    except OSError:
        return choice
    return choice


def _cache_file() -> Path:
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    digest = hashlib.sha256(json.dumps(_machine()).encode()).hexdigest()[:16]
    return Path(folder) / _FOLDER / f"products-{digest}.json"


def _machine() -> dict[str, str]:
    """Return what the choice depends on: the processor, the threads, and the versions of the libraries."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    here = onednn.library() is not None
    return {
        "processor": model or platform.processor(),
        "instructions": f"{onednn.library().dnnl_get_effective_cpu_isa():#x}" if here else "",
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
        "mkl": os.environ.get("MKL_DEBUG_CPU_TYPE", "") + os.environ.get("MKL_CBWR", ""),
        "versions": f"paddle {_version_of_paddle()}, numpy {np.__version__}",
        "measured": json.dumps([KINDS, PURPOSES, _ROUNDED]),
    }


def _version_of_paddle() -> str:
    """Return the version of the package, which is not imported: features are extracted without it."""
    for package in ("paddlepaddle", "paddlepaddle-gpu"):
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return ""
