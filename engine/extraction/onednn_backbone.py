"""Runs the convolutions that an ONNX file describes by oneDNN, in float32 or bfloat16."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from config.errors import UserError, cut
from config.files.kinds import refusal
from models.kernels import onednn
from models.kernels.convolution_plan import INPUT, Add, Clip, Convolution
from models.kernels.onednn_convolutions import ConvolutionNetwork
from models.kernels.precision import BFLOAT16, FLOAT32

_KINDS = {FLOAT32: onednn.FLOAT32, BFLOAT16: onednn.BFLOAT16}
_SHOWN = 5  # operators that a message names
_DAMAGED = TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RuntimeError  # of a graph


class OnednnNetwork:
    """A network for pictures, with one of its outputs; threads may call it at the same time.

    The arguments are those of `OnnxNetwork`, and float32 or bfloat16 as its `precision`. Networks that are
    read: convolutions, each perhaps with a batch norm, ReLU or limits, and sums of two maps; a mean over the
    map at the end. Raises `UserError` if the package onnx is missing, the file is no network, it has no such
    input or output, or other operators.
    """

    def __init__(
        self,
        path: str | Path,
        input_name: str,
        output_name: str,
        size: int,
        content: bytes | None = None,
        precision: str = BFLOAT16,
    ) -> None:
        self.path = Path(path)
        graph = _graph(self.path, content)
        try:
            with np.errstate(all="ignore"):  # weights that are not finite are refused
                reader = _Reader(self.path, graph, input_name, output_name, size)
            self._network = ConvolutionNetwork(reader.convolutions, size, _KINDS[precision])
        except _DAMAGED as error:
            raise UserError(
                f"{self.path}: its convolutions cannot run in bfloat16 ({type(error).__name__}: {error}): "
                "extract in float32"
            ) from error
        self._pools = reader.pools

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return the output for pictures, float32 [B,3,H,W]: [B,F] or a map [B,F,h,w]."""
        maps = self._network(images)
        with np.errstate(all="ignore"):  # so are features
            return maps.mean(axis=(2, 3)) if self._pools else maps


def _graph(path: Path, content: bytes | None) -> object:
    try:
        import onnx
    except ImportError as error:
        raise UserError(
            f"{path}: bfloat16 needs the package onnx, which is not installed: pip install -r "
            "requirements-backbone.txt, or extract in float32"
        ) from error
    try:
        return (onnx.load(str(path)) if content is None else onnx.load_model_from_string(content)).graph
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: no such file, expected a network: name it with --model or in MODEL"
        ) from error
    except Exception as error:  # protobuf's exceptions have no public base
        raise UserError(refusal(path, "not a network in ONNX's format")) from error


class _Reader:
    """The convolutions that lead to an output of a graph; `pools` tells whether it is the mean of the map."""

    def __init__(self, path: Path, graph: object, input_name: str, output_name: str, size: int) -> None:
        from onnx import numpy_helper

        self._path, self._to_array = path, numpy_helper.to_array
        self._constants = {each.name: each for each in graph.initializer}
        given = [value.name for value in graph.input if value.name not in self._constants]
        self._input = self._choose("input", "INPUT", input_name, given)
        self._output = self._choose(
            "output", "POOLED or GRID", output_name, [value.name for value in graph.output]
        )
        self._check_input({value.name: value for value in graph.input}[self._input], size)
        nodes = self._needed(graph.node)
        self._refuse_others({node.op_type for node in nodes})
        self._readers = {name: [n for n in nodes if name in n.input] for n in nodes for name in n.output}
        self._maps = {self._input: INPUT}  # value of the graph -> name of its map
        self._sides = {INPUT: (size, size)}
        self._drafts: dict[str, Convolution] = {}  # by the name of the map, in order
        self._means: set[str] = set()
        for node in nodes:
            _OPERATORS[node.op_type](self, node)
        self.pools = self._output in self._means
        self.convolutions = list(self._drafts.values())
        end = self._maps.get(self._output)
        if not self.convolutions or end != self.convolutions[-1].name:
            raise self._unlike("its output is not the map of its last convolution")
        self._check_sums()
        if not all(
            np.isfinite(part).all() for each in self.convolutions for part in (each.weight, each.bias)
        ):
            raise ValueError("weights of NaN or infinity")

    def _check_input(self, value: object, size: int) -> None:
        there = [side.dim_value for side in value.type.tensor_type.shape.dim]  # 0 for any
        if len(there) != 4 or any(
            side not in (0, want) for side, want in zip(there[1:], (3, size, size), strict=True)
        ):
            raise UserError(
                f"{self._path}: input {self._input} is {there}, expected [n, 3, {size}, {size}]: set SIZE of "
                "its YAML file, or convert the network"
            )

    def convolve(self, node: object) -> None:
        """Begin a map."""
        options = _options(node)
        weight = self._constant(node, 1)
        source = self._map(node.input[0])
        kernel, stride = weight.shape[2:], tuple(options.get("strides", (1, 1)))
        if weight.ndim != 4 or set(options.get("dilations", (1,))) != {1}:
            raise self._unlike("a convolution with holes, or of other than two axes")
        padding = self._padding(options, self._sides[source], kernel, stride)
        bias = self._constant(node, 2) if len(node.input) > 2 else np.zeros(len(weight), np.float32)
        name = node.output[0]
        self._drafts[name] = Convolution(
            name, source, weight, bias, stride, padding, int(options.get("group", 1))
        )
        self._maps[name] = name
        self._sides[name] = tuple(
            (side + padding[axis] + padding[axis + 2] - kernel[axis]) // stride[axis] + 1
            for axis, side in enumerate(self._sides[source])
        )

    def normalise(self, node: object) -> None:
        """Fold a batch norm into the convolution before it."""
        draft = self._open_draft(node)
        if draft.steps:
            raise self._unlike("a batch norm that does not follow a convolution")
        scale, shift, mean, variance = (self._constant(node, number) for number in range(1, 5))
        variance = variance + _options(node).get("epsilon", 1e-5)
        if not (variance > 0).all():
            raise ValueError("a batch norm's variance is not above 0")
        scale = scale / np.sqrt(variance)
        self._replace(
            node,
            draft,
            weight=(draft.weight * scale[:, None, None, None]).astype(np.float32),
            bias=((draft.bias - mean) * scale + shift).astype(np.float32),
        )

    def limit(self, node: object) -> None:
        """Append a ReLU or limits to the convolution before it."""
        draft = self._open_draft(node)
        bounds = [0.0, np.inf] if node.op_type == "Relu" else [-np.inf, np.inf]
        if node.op_type == "Clip":
            options = _options(node)
            bounds = [options.get("min", bounds[0]), options.get("max", bounds[1])]
            for number, given in enumerate(node.input[1:]):
                if given:
                    bounds[number] = float(self._constant(node, number + 1).reshape(-1)[0])
        self._replace(node, draft, steps=(*draft.steps, Clip(*bounds)))

    def add(self, node: object) -> None:
        """Add an earlier map to the map of the later convolution."""
        order = list(self._drafts)
        first, second = sorted(
            (self._map(name) for name in node.input), key=lambda m: order.index(m) if m in order else -1
        )
        if second not in self._drafts or self._sides[first] != self._sides[second] or first == second:
            raise self._unlike("a sum of other than two maps")
        later = next(name for name in node.input if self._map(name) == second)
        draft = self._open_draft(node, later)
        if any(isinstance(step, Add) for step in draft.steps):
            raise self._unlike("two sums after a convolution")
        self._replace(node, draft, steps=(*draft.steps, Add(first)))

    def rename(self, node: object) -> None:
        """Give a map, or its mean, another name."""
        name, renamed = node.input[0], node.output[0]
        if len(self._readers.get(name, [node])) != 1:  # a step of one name would reach the other
            raise self._unlike(f"{node.op_type} of what is read elsewhere, too")
        self._maps[renamed] = self._maps[name] if name in self._means else self._map(name)
        if name in self._means:
            self._means.add(renamed)

    def pool(self, node: object) -> None:
        """Take the mean of the map, as the output."""
        self._maps[node.output[0]] = self._map(node.input[0])
        self._means.add(node.output[0])

    def _needed(self, nodes: list) -> list:
        """Return the nodes that the output depends on, in order."""
        wanted, needed = {self._output}, []
        for node in reversed(nodes):
            if wanted & set(node.output):
                needed.insert(0, node)
                wanted |= set(node.input)
        return needed

    def _refuse_others(self, there: set[str]) -> None:
        if others := sorted(there - set(_OPERATORS)):
            names = ", ".join(map(cut, others[:_SHOWN])) + (
                f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
            )
            raise self._unlike(f"it has {names}")

    def _open_draft(self, node: object, name: str = "") -> Convolution:
        """Return the convolution whose map `node` alone reads, so that the step can be part of it."""
        name = name or node.input[0]
        draft = self._drafts.get(self._map(name))
        if draft is None or len(self._readers.get(name, ())) != 1 or name in self._means:
            raise self._unlike(f"{node.op_type} of what is read elsewhere, too")
        return draft

    def _replace(self, node: object, draft: Convolution, **changes: object) -> None:
        self._drafts[draft.name] = replace(draft, **changes)
        self._maps[node.output[0]] = draft.name

    def _map(self, name: str) -> str:
        if name not in self._maps or name in self._means:
            raise self._unlike(f"{name} is no map of its pictures")
        return self._maps[name]

    def _constant(self, node: object, number: int) -> np.ndarray:
        name = node.input[number]
        if name not in self._constants:
            raise self._unlike(f"{node.op_type} with weights that are not constant")
        return self._to_array(self._constants[name])

    def _padding(
        self, options: dict, sides: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int]
    ) -> tuple[int, int, int, int]:
        how = options.get("auto_pad", b"NOTSET").decode()
        if how in ("NOTSET", "VALID"):
            return tuple(options.get("pads", (0, 0, 0, 0)))
        missing = [
            max(0, (-(-side // step) - 1) * step + size - side)
            for side, step, size in zip(sides, stride, kernel, strict=True)
        ]
        less, more = [each // 2 for each in missing], [-(-each // 2) for each in missing]
        return (*less, *more) if how == "SAME_UPPER" else (*more, *less)

    def _check_sums(self) -> None:
        """Refuse a map that is read after it was added to another, which has its memory then."""
        for number, each in enumerate(self.convolutions):
            added = {step.map for step in each.steps if isinstance(step, Add)}
            for later in self.convolutions[number:]:
                read = {later.source} | {step.map for step in later.steps if isinstance(step, Add)}
                if added & (read if later is not each else {later.source}) or INPUT in added:
                    raise self._unlike("a map is read after it was added to another")

    def _choose(self, kind: str, key: str, name: str, there: list[str]) -> str:
        if not name and len(there) == 1:
            return there[0]
        if name not in there:
            problem = f"there is no {kind} {name!r}" if name else f"several {kind}s"
            shown = ", ".join(map(cut, there[:_SHOWN]))
            raise UserError(f"{self._path}: {problem}, it has {shown}: set {key} of its YAML file")
        return name

    def _unlike(self, what: str) -> UserError:
        known = ", ".join(sorted(_OPERATORS))
        return UserError(
            f"{self._path}: bfloat16 is for networks of {known} alone, one after the other, but "
            f"{cut(what, 80)}: extract in float32"
        )


_OPERATORS = {
    "Conv": _Reader.convolve,
    "BatchNormalization": _Reader.normalise,
    "Clip": _Reader.limit,
    "Relu": _Reader.limit,
    "Add": _Reader.add,
    "Identity": _Reader.rename,
    "Flatten": _Reader.rename,
    "GlobalAveragePool": _Reader.pool,
}


def _options(node: object) -> dict[str, object]:
    """Return the attributes of a node by name."""
    from onnx import helper

    return {each.name: helper.get_attribute_value(each) for each in node.attribute}
