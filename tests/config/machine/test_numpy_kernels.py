"""NumPy's OpenBLAS is told which kernels to take, before NumPy is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from config.machine.numpy_kernels import choose_numpy_kernels, openblas_kernels

ROOT = Path(__file__).resolve().parents[3]
AMD = "processor : 0\nvendor_id : AuthenticAMD\nflags : fpu sse2 avx avx2 fma\n"
ARM = "processor : 0\nFeatures : fp asimd\nCPU implementer : 0x41\n"
INTEL = "processor : 0\nvendor_id : GenuineIntel\nflags : fpu sse2 avx avx2 fma\n"


def test_openblas_is_told_the_kernels_of_intels_processors_that_it_may_not_know():
    wide = INTEL.replace("fma", "fma avx512f avx512dq avx512cd avx512bw avx512vl")
    assert openblas_kernels(wide) == "SkylakeX"
    assert openblas_kernels(wide.replace(" avx512vl", "")) == "Haswell"
    assert openblas_kernels(INTEL) == "Haswell"
    for other in (INTEL.replace(" fma", ""), AMD, ARM, ""):
        assert openblas_kernels(other) == "", "it knows them itself"


@pytest.mark.parametrize("given", [{}, {"OPENBLAS_CORETYPE": "Haswell"}], ids=["ours", "the user's"])
def test_numpys_kernels_are_chosen_unless_the_user_has(monkeypatch, given):
    # It is set first, so that it is taken away again afterwards: FAISS's OpenBLAS reads it, too, and kernels
    # that this processor does not have end the process.
    monkeypatch.setenv("OPENBLAS_CORETYPE", "")
    monkeypatch.delenv("OPENBLAS_CORETYPE")
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    choose_numpy_kernels(AMD)
    assert os.environ.get("OPENBLAS_CORETYPE") == given.get("OPENBLAS_CORETYPE")
    choose_numpy_kernels(INTEL.replace("fma", "fma avx512f avx512dq avx512cd avx512bw avx512vl"))
    assert os.environ["OPENBLAS_CORETYPE"] == given.get("OPENBLAS_CORETYPE", "SkylakeX")


@pytest.mark.parametrize("tool", ["train_retrieval", "eval_retrieval", "build_index", "serve_retrieval"])
def test_a_tool_chooses_numpys_kernels_before_it_imports_numpy(tool):
    code = f"""
import sys
sys.path.insert(0, "tools")
sys.path.insert(0, ".")
import config.machine.numpy_kernels
config.machine.numpy_kernels.choose_numpy_kernels = lambda: print("numpy" in sys.modules)
import {tool}
"""
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.stdout.split(), done.returncode) == (["False"], 0), done.stderr
