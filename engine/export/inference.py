"""Runs a graph with Paddle Inference, in a process of its own, which an error of the library may end."""

import contextlib
import multiprocessing
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from config.errors import UserError
from engine.runtime import prepare_runtime

PROGRAM, WEIGHTS = ".json", ".pdiparams"


class InferenceGraph:
    """A graph that Paddle Inference runs in a process of its own, which an error of the library may end.

    `path` is the program; its weights lie beside it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(str(path), theirs), daemon=True)
        self._process.start()
        theirs.close()

    def __call__(self, **inputs: np.ndarray) -> np.ndarray:
        """Return the graph's output for `inputs` by name; raise UserError if its process has ended."""
        try:
            self._connection.send(inputs)
            return self._connection.recv()
        except (EOFError, OSError) as error:
            raise UserError(
                f"{self.path}: Paddle Inference fails on this graph; use --format onnx"
            ) from error


def _serve(path: str, connection: Connection) -> None:
    prepare_runtime("cpu")
    from paddle import inference

    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Paddle answers it with a report on stderr
    config = inference.Config(path, path.removesuffix(PROGRAM) + WEIGHTS)
    config.disable_glog_info()
    config.disable_mkldnn()  # oneDNN, the default, loses one of two functions after a linear map
    predictor = inference.create_predictor(config)
    with contextlib.suppress(EOFError):  # the other side has ended
        while True:
            for name, array in connection.recv().items():
                predictor.get_input_handle(name).copy_from_cpu(np.ascontiguousarray(array))
            predictor.run()
            (output,) = predictor.get_output_names()
            connection.send(predictor.get_output_handle(output).copy_to_cpu())
