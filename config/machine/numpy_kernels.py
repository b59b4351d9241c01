"""Which kernels NumPy multiplies by: its OpenBLAS reads this from the environment when NumPy is imported.

OpenBLAS knows Intel's processors by their numbers. For one that is newer than it is, it takes kernels without
AVX, which are four times as slow.
"""

import os
from pathlib import Path

_AVX512 = {"avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512cd"}


def choose_numpy_kernels(cpuinfo: str | None = None) -> None:
    """Tell OpenBLAS which kernels to take; what the user's environment says stays.

    `cpuinfo` is the text of /proc/cpuinfo, by default this machine's.
    """
    if kernels := openblas_kernels(read_cpuinfo() if cpuinfo is None else cpuinfo):
        os.environ.setdefault("OPENBLAS_CORETYPE", kernels)


def openblas_kernels(cpuinfo: str) -> str:
    """Return the kernels for an Intel processor, by the text of /proc/cpuinfo; empty: OpenBLAS chooses."""
    flags = set(cpu_field(cpuinfo, "flags"))
    if cpu_field(cpuinfo, "vendor_id") != ["GenuineIntel"]:
        return ""
    if flags >= _AVX512:
        return "SkylakeX"
    return "Haswell" if {"avx2", "fma"} <= flags else ""


def read_cpuinfo() -> str:
    """Return the text of this machine's /proc/cpuinfo; empty where there is none."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def cpu_field(cpuinfo: str, name: str) -> list[str]:
    """Return the words of the first processor's field `name`; none where it has no such field."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.split()
    return []
