"""What a process of tests/forks.py begins with: Paddle prepared, every module imported, nothing computed.

Threads that compute begin with the first computation, and would be missing in a fork.
"""

import dataclasses
import gc
import importlib
import os
import pkgutil

import datasets
import engine
import models
import serving
import solvers
from engine import runtime

# What functions import when they need it.
LATE = ["nltk", "visualdl.component.base_component", "visualdl.writer.record_writer"]

del os.environ["PYTHONPATH"]  # by which this module was found: tools find theirs themselves

prepared = runtime.prepare_runtime("cpu", threads=1)


def prepare_again(
    device: str,
    threads: int,
    seed: int,
    deterministic: bool,
    local_processes: int = 1,
    products: str = "auto",
    precision: str = "float32",
) -> runtime.Runtime:
    """Seed everything random, and choose what multiplies, as the real function does; the rest is done."""
    from models.kernels.choice import choose
    from models.kernels.precision import set_precision

    runtime.set_seed(seed)
    choose(products)
    precision = set_precision(precision)
    return dataclasses.replace(prepared, seed=seed, deterministic=deterministic, precision=precision)


runtime.prepare_runtime = prepare_again
names = [*LATE]
for package in (datasets, engine, models, serving, solvers):
    names += [module.name for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
for name in names:
    importlib.import_module(name)
gc.freeze()  # a collection would write to, and so copy, what processes share
