"""What a process runs on. Paddle reads its environment once, so each preparation has a process of its own."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from config.errors import UserError
from engine.runtime import (
    AMD_MATH,
    CUSTOM_MATH,
    SHIPPED_MATH,
    Runtime,
    choose_threads,
    container_quota,
    flush_subnormals,
    keep_freed_memory,
    mkl_needs_help,
    set_environment,
    usable_cores,
)

ROOT = Path(__file__).resolve().parents[2]
OURS = (
    *("OMP_NUM_THREADS", "KMP_BLOCKTIME", "MKL_DEBUG_CPU_TYPE", "MKL_CBWR"),
    "OPENBLAS_CORETYPE",
    *("PADDLE_TRAINER_ID", "PADDLE_LOCAL_SIZE"),
)

AMD = "processor : 0\nvendor_id : AuthenticAMD\nflags : fpu sse2 avx avx2 fma\n"
ARM = "processor : 0\nFeatures : fp asimd\nCPU implementer : 0x41\n"
INTEL = "processor : 0\nvendor_id : GenuineIntel\nflags : fpu sse2 avx avx2 fma\n"


@pytest.fixture
def clean_environment(monkeypatch):
    for name in OURS:
        monkeypatch.setenv(name, "")  # so that what a test sets is taken back
        monkeypatch.delenv(name)


def run_code(code: str, **environment: str) -> subprocess.CompletedProcess:
    """Run Python code in a fresh process, from the root, with none of our variables but those given."""
    inherited = {name: value for name, value in os.environ.items() if name not in OURS}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, env={**inherited, **environment}, capture_output=True, text=True)


def test_one_process_takes_every_core_it_may_use(clean_environment):
    assert choose_threads() == usable_cores()


def test_local_processes_share_the_cores(clean_environment, monkeypatch):
    monkeypatch.setattr("engine.runtime.usable_cores", lambda: 8)
    assert [choose_threads(local_processes=n) for n in (1, 2, 3, 8, 100)] == [8, 4, 2, 1, 1]


def test_the_users_threads_go_first_then_the_users_environment(clean_environment, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert choose_threads(threads=5) == 5
    assert choose_threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "6,2")  # OpenMP's list: one number per nesting level
    assert choose_threads() == 6


def test_the_launchers_single_thread_is_not_the_users_wish(clean_environment, monkeypatch):
    monkeypatch.setattr("engine.runtime.usable_cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PADDLE_TRAINER_ID", "0")
    monkeypatch.setenv("PADDLE_LOCAL_SIZE", "2")
    assert choose_threads() == 4
    assert choose_threads(threads=3) == 3


@pytest.mark.parametrize("value", ["many", "0", "-2", "1.5"])
def test_a_meaningless_thread_count_is_the_users_mistake(clean_environment, monkeypatch, value):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    with pytest.raises(UserError, match=f"OMP_NUM_THREADS: expected a positive number, got '{value}'"):
        choose_threads()


def test_the_affinity_mask_bounds_the_cores():
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system has no affinity masks")
    core = min(os.sched_getaffinity(0))
    code = f"""
import os
from engine.runtime import usable_cores
os.sched_setaffinity(0, {{{core}}})
print(usable_cores())
"""
    assert run_code(code).stdout.strip() == "1"


def test_a_containers_quota_is_the_tightest_of_its_groups(tmp_path):
    inner = tmp_path / "batch" / "job"
    inner.mkdir(parents=True)
    membership = "0::/batch/job\n"
    assert container_quota(tmp_path, membership) is None
    (inner / "cpu.max").write_text("max 100000\n")
    assert container_quota(tmp_path, membership) is None
    (tmp_path / "batch" / "cpu.max").write_text("250000 100000\n")
    assert container_quota(tmp_path, membership) == 2.5
    (inner / "cpu.max").write_text("150000 100000\n")
    assert container_quota(tmp_path, membership) == 1.5


def test_a_quota_of_the_first_kind_of_control_groups(tmp_path):
    group = tmp_path / "cpu" / "box"
    group.mkdir(parents=True)
    membership = "5:memory:/elsewhere\n3:cpu,cpuacct:/box\n"
    (group / "cpu.cfs_period_us").write_text("100000\n")
    (group / "cpu.cfs_quota_us").write_text("-1\n")
    assert container_quota(tmp_path, membership) is None
    (group / "cpu.cfs_quota_us").write_text("300000\n")
    assert container_quota(tmp_path, membership) == 3


def test_only_an_amd_processor_with_avx2_needs_help():
    assert mkl_needs_help(AMD)
    assert not mkl_needs_help(INTEL)
    assert not mkl_needs_help(AMD.replace(" avx2", ""))
    assert not mkl_needs_help("")


@pytest.mark.parametrize(
    ("cpuinfo", "set_by_user", "used", "reproducible", "math"),
    [
        (AMD, None, "5", None, AMD_MATH),
        (AMD, "4", "4", "AUTO", CUSTOM_MATH),
        (AMD.replace(" avx2", ""), None, None, "AUTO", SHIPPED_MATH),
        (INTEL, None, None, None, SHIPPED_MATH),
        (INTEL, "5", "5", None, AMD_MATH),
        (INTEL.replace(" avx2", ""), None, None, "AUTO", SHIPPED_MATH),
        (ARM, None, None, "AUTO", SHIPPED_MATH),  # which nothing reads
        ("", None, None, "AUTO", SHIPPED_MATH),
    ],
    ids=["AMD", "AMD, told", "old AMD", "Intel", "Intel, told", "old Intel", "ARM", "unknown"],
)
def test_the_math_library_is_told_what_the_processor_can_do(
    clean_environment, monkeypatch, cpuinfo, set_by_user, used, reproducible, math
):
    monkeypatch.delitem(sys.modules, "paddle", raising=False)
    monkeypatch.setattr("engine.runtime._read_text", lambda path: cpuinfo if path.name == "cpuinfo" else "")
    if set_by_user is not None:
        monkeypatch.setenv("MKL_DEBUG_CPU_TYPE", set_by_user)
    assert set_environment(threads=3) == (3, math)
    assert os.environ.get("MKL_DEBUG_CPU_TYPE") == used
    assert os.environ.get("MKL_CBWR") == reproducible


def test_a_product_is_the_same_wherever_its_factors_lie_without_avx2_too():
    """A resumed training repeats the undisturbed one, whose arrays lay elsewhere."""
    code = """
from engine.runtime import prepare_runtime
prepare_runtime("cpu", threads=1)
import numpy as np
from models.kernels.mkl import multiply_each
random = np.random.default_rng(0)
def moved(x, offset):
    room = np.empty(x.size + 16, np.float32)[offset : offset + x.size].reshape(x.shape)
    room[:] = x
    return room
products = set()
for shape in (400, 400), (1, 400):
    a, b = (random.standard_normal((1, *each)).astype(np.float32) for each in (shape, (400, 1)))
    products |= {multiply_each(moved(a, i), moved(b, i % 5)).tobytes() for i in range(16)}
print(len(products))
"""
    assert run_code(code, MKL_DEBUG_CPU_TYPE="4").stdout.split()[-1] == "2"


def test_without_affinity_masks_all_cores_count(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.setattr("engine.runtime.container_quota", lambda root, membership: None)
    assert usable_cores() == 6


def load_no_library(name):
    raise OSError(f"{name}: cannot open shared object file")


@pytest.mark.parametrize(
    ("machine", "load"),
    [("aarch64", None), ("x86_64", load_no_library), ("x86_64", lambda name: object())],
    ids=["another processor", "another C library", "one that lacks the functions"],
)
def test_where_subnormals_and_freed_memory_cannot_be_switched_they_stay(monkeypatch, machine, load):
    monkeypatch.setattr("engine.runtime.platform.machine", lambda: machine)
    if load is not None:
        monkeypatch.setattr("engine.runtime.ctypes.CDLL", load)
        keep_freed_memory()
    before = np.full(100, 1e-20, np.float32) ** 2
    flush_subnormals()
    np.testing.assert_array_equal(np.full(100, 1e-20, np.float32) ** 2, before)


def test_preparing_sets_threads_device_and_seeds():
    code = """
import json, os, random
from engine.runtime import prepare_runtime
runtime = prepare_runtime("auto", threads=1, seed=7, deterministic=True)
import numpy, paddle
draw = lambda: [random.random(), float(numpy.random.rand()), float(paddle.rand([1]))]
first = draw()
from engine.runtime import set_seed
set_seed(7)
print(runtime.describe())
print(json.dumps({
    "same": first == draw(), "threads": os.environ["OMP_NUM_THREADS"], "device": paddle.device.get_device(),
    "flag": os.environ["FLAGS_cudnn_deterministic"],
}))
"""
    result = run_code(code)
    assert result.returncode == 0, result.stderr
    line, facts = result.stdout.splitlines()[-2:]
    facts = json.loads(facts)
    assert line.startswith("runtime: paddle ")
    assert ", seed 7, deterministic" in line
    assert "; products by " in line or "gpu" in line
    assert facts["same"]
    assert (facts["threads"], facts["flag"]) == ("1", "1")
    assert facts["device"].startswith(("cpu", "gpu"))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="where the switch is known")
def test_numbers_too_small_to_be_normal_are_zero_in_every_thread():
    code = """
import warnings
warnings.simplefilter("error")
from engine.runtime import prepare_runtime
import numpy as np
tiny = np.full(10_000, 1e-20, np.float32)
assert (tiny * tiny > 0).all(), "as it is before"
prepare_runtime("cpu", threads=2)
import paddle
from models.kernels.products import multiply
from config.machine.threads import for_each
found = []
for_each(lambda part: found.append((part * part).max()), [tiny] * 50)
found.append(multiply(tiny[None, :1].repeat(64, 0), tiny[None, :64]).max())
found.append(float((paddle.to_tensor(tiny) ** 2).max()))
from datasets.features.store import half_to_single
half = np.arange(1, 1024, dtype=np.uint16).view(np.float16)  # below what is normal, but not in 32 bits
assert (half_to_single(half) == np.arange(1, 1024) * 2.0**-24).all(), "what is read stays"
print(max(found), np.finfo(np.float32).eps > 0)
"""
    done = run_code(code)
    assert (done.stdout, done.stderr) == ("0.0 True\n", "")


def test_the_start_is_quiet_and_the_environment_reaches_paddle():
    code = """
from engine.runtime import prepare_runtime
print(prepare_runtime("cpu", threads=2, seed=0, deterministic=False).describe())
"""
    result = run_code(code, MKL_DEBUG_CPU_TYPE="4")
    assert result.returncode == 0
    assert result.stderr == ""  # Paddle warns about more than one thread, and about ccache
    assert "cpu x 2 threads, MKL as MKL_DEBUG_CPU_TYPE says, seed 0, nondeterministic" in result.stdout


def test_a_process_keeps_its_own_handler_of_sigterm():
    """Paddle's import takes SIGTERM over, and a process that serves may import it late."""
    code = """
import os, signal, sys
from engine.runtime import prepare_runtime
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
prepare_runtime("cpu")
os.kill(os.getpid(), signal.SIGTERM)
"""
    ended = run_code(code)
    assert (ended.returncode, ended.stderr) == (143, "")


def test_a_gpu_that_is_not_there_is_the_users_mistake():
    code = """
from config.errors import UserError
from engine.runtime import prepare_runtime
import sys
try:
    prepare_runtime("gpu", threads=1, seed=0, deterministic=True)
except UserError as error:
    print(error)
else:
    sys.exit("there is a GPU")
"""
    result = run_code(code)
    if "there is a GPU" in result.stderr:
        pytest.skip("this machine has a GPU")
    assert result.stdout.startswith("RUNTIME.DEVICE: expected a GPU, but ")
    assert result.stdout.count("\n") == 1


def test_paddle_imported_too_early_is_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "paddle", object())
    from engine.runtime import prepare_runtime

    with pytest.raises(RuntimeError, match="expected Paddle not to be imported before"):
        prepare_runtime("cpu", threads=1, seed=0, deterministic=True)


def test_neither_paddle_nor_numpy_is_imported_with_the_module():
    code = "import sys, engine.runtime; print(sorted({'paddle', 'numpy'} & set(sys.modules)))"
    assert run_code(code).stdout.strip() == "[]"


def test_a_package_of_paddle_s_that_sets_logging_up_takes_no_log_of_ours(tmp_path):
    """While Paddle is imported, stderr is a buffer; a handler bound to it would swallow all logs."""
    (tmp_path / "paddle.py").write_text("import logging; logging.basicConfig(); logging.warning('early')")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import logging, engine.runtime; "
        "engine.runtime._import_paddle_quietly(); print(logging.root.handlers); "
        "logging.basicConfig(); logging.warning('late')"
    )
    done = run_code(code)
    assert done.stdout.strip() == "[]" and "early" in done.stderr and "late" in done.stderr


def test_a_sigterm_while_paddle_is_imported_is_not_lost(tmp_path):
    """Paddle's own handler, which the fake installs as the real one does, would swallow it."""
    (tmp_path / "paddle.py").write_text(
        "import os, signal; signal.signal(signal.SIGTERM, lambda *_: None); "
        "os.kill(os.getpid(), signal.SIGTERM)"
    )
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import signal, engine.runtime; "
        "signal.signal(signal.SIGTERM, lambda *_: print('ended')); engine.runtime._import_paddle_quietly()"
    )
    assert run_code(code).stdout.strip() == "ended"


def test_the_line_names_the_gpu():
    runtime = Runtime("gpu", "A100", 8, "math library as shipped", 123, True, "3.3.1")
    assert runtime.describe() == (
        "runtime: paddle 3.3.1, gpu (A100), cpu x 8 threads, math library as shipped, seed 123, deterministic"
    )


def test_paddles_threads_leave_the_cores_unless_the_user_wants_them_to_wait():
    code = (
        "from engine.runtime import prepare_runtime; prepare_runtime('cpu'); import os; "
        "print(os.environ['KMP_BLOCKTIME'])"
    )
    assert run_code(code).stdout.split()[-1] == "1"
    assert run_code(code, KMP_BLOCKTIME="200").stdout.split()[-1] == "200"
