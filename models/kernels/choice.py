"""Which library multiplies matrices: measured once for a machine, or set by hand.

No rule would be right on every processor: of two libraries in one wheel, one is faster on Intel's and the
other on AMD's. So the first product measures them, and the choice is kept in a file of the user's cache
folder, for this processor and these versions: two runs choose alike, and add up in the same order.
"""

import hashlib
import json
import os
import platform
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle

from config.errors import UserError
from models.kernels import mkl, mkl_products, numpy_products, onednn, onednn_products

NAMES = {"mkl": "MKL", "onednn": "oneDNN", "numpy": "NumPy"}
AUTO = "auto"
KINDS = {"packed": 64, "plain": 256}  # kinds of products, and the rows M of the one that is measured
_DEPTH, _WIDTH = 512, 1024
_BUDGET, _ROUNDS = 0.08, 4  # seconds for all rounds
_MARGIN = 0.95  # a later library must take less than this share of the time of an earlier one
_FOLDER = "image-text-retrieval"


@dataclass(frozen=True)
class Choice:
    """The library for each kind of product, and where the choice comes from.

    `packed` multiplies by matrices that are packed once, `plain` all others.
    """

    packed: str
    plain: str
    origin: str

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
        with _lock:
            if _chosen is None:
                _chosen = _kept_or_measured()
    return _chosen


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

    The calling thread measures alone; NumPy, which takes all threads, must be as fast as all together.
    """
    started, threads = time.perf_counter(), int(os.environ.get("OMP_NUM_THREADS", "1").split(",")[0])
    matrix, best = np.ones((_DEPTH, _WIDTH), np.float32), {}
    work = {(kind, name): _product(kind, name, matrix) for kind in KINDS for name in names}
    for _ in range(_ROUNDS):
        for key, multiply in work.items():
            before = time.perf_counter()
            multiply()
            taken = (time.perf_counter() - before) * (threads if key[1] == "numpy" else 1)
            best[key] = min(best.get(key, taken), taken)
        if time.perf_counter() - started > _BUDGET:
            break
    fastest = {}
    for kind in KINDS:
        for name in names:
            if kind not in fastest or best[kind, name] < _MARGIN * best[kind, fastest[kind]]:
                fastest[kind] = name
    return Choice(**fastest, origin="measured")


def _product(kind: str, name: str, matrix: np.ndarray) -> object:
    x = np.ones((KINDS[kind], len(matrix)), np.float32)
    out = np.empty((len(x), matrix.shape[1]), np.float32)
    if kind == "packed":
        packers = mkl_products.PackedMatrix, onednn_products.PackedMatrix, numpy_products.PackedMatrix
        packed = dict(zip(NAMES, packers, strict=True))[name](matrix)
        return lambda: packed.multiply(x, out)
    multipliers = mkl.multiply_on_one_thread, onednn_products.multiply, numpy_products.multiply
    multiply = dict(zip(NAMES, multipliers, strict=True))[name]
    return lambda: multiply(x, matrix, out)


def read_choice(path: Path, names: list[str]) -> Choice | None:
    """Return the choice among `names` that a file keeps; None for a file that is not there, or is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        libraries = {kind: content["libraries"][kind] for kind in KINDS}
        if content["of"] != _machine() or not set(libraries.values()) <= set(names):
            return None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return Choice(**libraries, origin="measured before")


def keep_choice(path: Path, choice: Choice, names: list[str]) -> Choice:
    """Write a choice for later processes, and return it, or that of a process that was faster.

    Where nothing can be written, each process measures.
    """
    content = {"of": _machine(), "libraries": choice.libraries()}
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
        "versions": f"paddle {paddle.__version__}, numpy {np.__version__}",
        "measured": json.dumps([KINDS, _DEPTH, _WIDTH]),
    }
