"""Runs a network in an ONNX file with ONNX Runtime, an optional package."""

from pathlib import Path

import numpy as np

from config.errors import UserError, cut, some
from config.files.kinds import refusal


class OnnxNetwork:
    """A network for pictures, with one of its outputs; threads may call it at the same time.

    `path` is the ONNX file, or what messages call the network if its bytes are given as `content`.
    `input_name` and `output_name` may be "" if there is only one. `size` is the width and the height of the
    pictures. A call runs in the calling thread alone: threads that each take pictures of their own wait for
    each other less than those that share a picture. Raises `UserError` if ONNX Runtime is missing, the file
    is no network, it has no input or output of that name, or its input is not float32 [n,3,size,size].
    """

    def __init__(
        self,
        path: str | Path,
        input_name: str,
        output_name: str,
        size: int,
        content: bytes | None = None,
    ) -> None:
        self.path, self.size = Path(path), size
        runtime = _import_runtime(self.path)
        if content is None and not self.path.is_file():
            raise UserError(
                f"{self.path}: no such file, expected a network: name it with --model or in MODEL"
            )
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        try:
            self._session = runtime.InferenceSession(
                content or str(self.path), options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
            inputs = {value.name: value for value in self._session.get_inputs()}
            outputs = {value.name: value for value in self._session.get_outputs()}
            for value in (*inputs.values(), *outputs.values()):
                list(value.shape)  # names of axes that are no text raise
        except Exception as error:  # ONNX Runtime's exceptions have no common base but this
            otherwise = f"not a network that ONNX Runtime can run ({_short(error)})"
            raise UserError(refusal(self.path, otherwise)) from error
        self._input = _choose(self.path, "input", "INPUT", input_name, inputs)
        self._output = _choose(self.path, "output", "POOLED, GRID or OUTPUT", output_name, outputs)
        self._batch = self._check_input(inputs[self._input])

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return the output for pictures, float32 [B,3,H,W]; raise `UserError` if the network fails."""
        # The maps of one picture stay in the processor's cache; those of 32 take half as long again.
        step = self._batch or 1
        parts = []
        for start in range(0, len(images), step):
            part = images[start : start + step]
            if self._batch and len(part) < step:
                part = np.concatenate([part, np.zeros((step - len(part), *part.shape[1:]), part.dtype)])
            try:
                parts.append(self._session.run([self._output], {self._input: part})[0])
            except Exception as error:  # as above
                raise UserError(
                    f"{self.path}: fails on a batch of {len(part)} pictures of {self.size} pixels "
                    f"({_short(error)}): check SIZE and INPUT of its YAML file"
                ) from error
        return np.concatenate(parts)[: len(images)]

    def _check_input(self, value: object) -> int | None:
        """Return the batch size that the network requires, None for any; raise `UserError` for bad input."""
        shape = list(value.shape)
        fits = len(shape) == 4 and value.type == "tensor(float)"
        wanted = [3, self.size, self.size]
        # An axis of any size has a name or None in place of a number.
        fits = fits and all(
            not isinstance(side, int) or side == want for side, want in zip(shape[1:], wanted, strict=True)
        )
        if not fits:
            raise UserError(
                f"{self.path}: input {self._input} is {value.type} {shape}, expected tensor(float) [n, 3, "
                f"{self.size}, {self.size}]: set SIZE of its YAML file, or convert the network"
            )
        return shape[0] if isinstance(shape[0], int) else None


def _import_runtime(path: Path) -> object:
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(
            f"{path}: ONNX networks need ONNX Runtime, which is not installed: "
            "pip install -r requirements-onnx.txt"
        ) from error
    return onnxruntime


def _choose(path: Path, kind: str, key: str, name: str, there: dict[str, object]) -> str:
    if not name and len(there) == 1:
        return next(iter(there))
    if name not in there:
        shapes = some(f"{cut(known, 24)} {list(value.shape)}" for known, value in there.items())
        problem = f"there is no {kind} {name!r}" if name else f"several {kind}s"
        raise UserError(f"{path}: {problem}, it has {shapes}: set {key} of its YAML file")
    return name


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
