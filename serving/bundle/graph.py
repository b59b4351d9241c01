"""Runs a graph of a bundle with ONNX Runtime."""

import os
from pathlib import Path

import numpy as np

from config.errors import UserError
from config.files.kinds import refusal
from config.machine.cores import helpers_core


class Graph:
    """A graph in an ONNX file, whose first axis is the batch.

    Raises `UserError` if ONNX Runtime is missing or refuses the file.
    """

    def __init__(self, path: Path) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError(
                f"{path}: bundles need ONNX Runtime, which is not installed: "
                "pip install -r requirements-serving.txt"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = _threads(), 4
        if options.intra_op_num_threads == 2 and (core := helpers_core()) is not None:
            options.add_session_config_entry("session.intra_op_thread_affinities", str(core + 1))
        # Spinning threads would wait for work on cores that other processes need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.path = path
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
        except Exception as error:  # ONNX Runtime's exceptions have no common base but this
            reason = " ".join(str(error).split())[:160]
            raise UserError(refusal(path, f"not a graph that ONNX Runtime can run ({reason})")) from error

    def __call__(self, **inputs: np.ndarray) -> np.ndarray:
        """Return the graph's one output for `inputs` by name; raise `UserError` if the graph fails."""
        try:
            return self._session.run(None, inputs)[0]
        except Exception as error:  # as above
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in inputs.items())
            reason = " ".join(str(error).split())[:160]
            raise UserError(f"{self.path}: fails on {shapes} ({reason})") from error


def _threads() -> int:
    """Return OMP_NUM_THREADS, or without it the number of cores that this process may use."""
    chosen = os.environ.get("OMP_NUM_THREADS", "")
    return int(chosen) if chosen.isdecimal() and int(chosen) else len(os.sched_getaffinity(0))
