"""Recurrent layers as loops over steps of an ONNX graph.

A loop (Scan) of matrix products is used in place of ONNX's own GRU and LSTM: ONNX Runtime runs it faster, and
quantises its products, which it never does in a GRU. A state stays as it is behind the end of its sequence.
So the final state is that of the last position, and a loop that runs backwards starts at each sequence's
end.
"""

from dataclasses import dataclass

import numpy as np
from paddle import nn

from engine.export.graphs.layers import affine, array, positions
from engine.export.graphs.onnx_graph import OnnxGraph

Layers = nn.GRU | nn.LSTM


@dataclass(frozen=True)
class Sequences:
    """Sequences [T,B,...], of which sequence b has `length[b]` positions.

    `length` is [B,1], and `steps` [T] are 0 to T-1.
    """

    length: str
    steps: str

    @classmethod
    def of(cls, graph: OnnxGraph, padded: str, length: str) -> "Sequences":
        """Return the sequences of `padded` [T,B,...] with `length` [B]."""
        column = graph.add("Unsqueeze", length, graph.constant([1]))
        return cls(column, positions(graph, padded, 0))


def project(graph: OnnxGraph, rows: str, cell: nn.Layer) -> str:
    """Return the part [...,G*D] of a cell's gates that depends on its input `rows` [...,E] alone.

    The biases of gates are added up here, except for the GRU's candidate, whose second bias is scaled.
    """
    bias, dim = array(cell.bias_ih), cell.hidden_size
    kept = 2 * dim if isinstance(cell, nn.GRUCell) else 4 * dim
    bias[:kept] += array(cell.bias_hh)[:kept]
    return affine(graph, rows, array(cell.weight_ih).T, bias)


def run_layer(
    graph: OnnxGraph, projected: str, sequences: Sequences, cell: nn.Layer, reverse: bool
) -> tuple[str, str]:
    """Return the final states [B,D] and all states [T,B,D] of one layer in one direction.

    `projected` [T,B,G*D] is what `project` returns. Behind the end of a sequence, all states of a forward
    layer repeat the last one, and those of a backward layer are 0.
    """
    dim = cell.hidden_size
    batch = graph.add("Shape", projected, start=1, end=2)
    shape = graph.add("Concat", batch, graph.constant([dim]), axis=0)
    zeros = graph.add("Expand", graph.constant(np.zeros((1, 1), np.float32)), shape)
    body = OnnxGraph(graph.half, inside=graph)
    names = ["hidden"] if isinstance(cell, nn.GRUCell) else ["hidden", "memory"]
    before = [body.input(f"{name}_{projected}_{int(reverse)}", "float32", None) for name in names]
    step = body.input(f"step_{projected}_{int(reverse)}", "int64", [])
    x = body.input(f"x_{projected}_{int(reverse)}", "float32", None)
    recurrent = body.add("MatMul", before[0], graph.weight(array(cell.weight_hh).T))
    after = (_gru_step if len(names) == 1 else _lstm_step)(graph, body, x, recurrent, before, cell)
    live = body.add("Less", step, sequences.length)
    states = [body.add("Where", live, new, old) for new, old in zip(after, before, strict=True)]
    outputs = [*states, body.add("Identity", states[0])]
    initial = [zeros] * len(names)
    final, *_, stacked = graph.scan(body, outputs, initial, [sequences.steps, projected], 1, reverse)
    return final, stacked


def _gru_step(
    graph: OnnxGraph, body: OnnxGraph, x: str, recurrent: str, before: list[str], cell: nn.Layer
) -> list[str]:
    """r, z = sigmoid(x + U h); c = tanh(x + r (U h + b)); h' = c + z (h - c)."""
    dim, (hidden,) = cell.hidden_size, before
    sizes = body.constant([2 * dim, dim])
    (x_gates, x_candidate), (h_gates, h_candidate) = (
        body.add_many("Split", 2, value, sizes, axis=1) for value in (x, recurrent)
    )
    gates = body.add("Sigmoid", body.add("Add", x_gates, h_gates))
    reset, update = body.add_many("Split", 2, gates, body.constant([dim, dim]), axis=1)
    heard = body.add("Add", h_candidate, graph.weight(array(cell.bias_hh)[2 * dim :]))
    candidate = body.add("Tanh", body.add("Add", x_candidate, body.add("Mul", reset, heard)))
    kept = body.add("Mul", update, body.add("Sub", hidden, candidate))
    return [body.add("Add", candidate, kept)]


def _lstm_step(
    graph: OnnxGraph, body: OnnxGraph, x: str, recurrent: str, before: list[str], cell: nn.Layer
) -> list[str]:
    """i, f, o = sigmoid(x + U h); c' = f c + i tanh(x + U h); h' = o tanh(c')."""
    dim, (_, memory) = cell.hidden_size, before
    parts = body.add_many(
        "Split", 3, body.add("Add", x, recurrent), body.constant([2 * dim, dim, dim]), axis=1
    )
    gates = body.add("Sigmoid", parts[0])
    enter, forget = body.add_many("Split", 2, gates, body.constant([dim, dim]), axis=1)
    new = body.add("Mul", enter, body.add("Tanh", parts[1]))
    memory = body.add("Add", body.add("Mul", forget, memory), new)
    return [body.add("Mul", body.add("Sigmoid", parts[2]), body.add("Tanh", memory)), memory]


def run_stack(graph: OnnxGraph, first: list[str], sequences: Sequences, rnn: Layers) -> list[tuple[str, str]]:
    """Return the final and all states of the top layer in each direction: [forward] or [forward, backward].

    `first` are the projected inputs of the bottom layer, one for each direction.
    """
    states: list[tuple[str, str]] = []
    for layer in rnn:
        cells = cells_of(layer)
        if states:
            every = [stacked for _, stacked in states]
            joined = graph.add("Concat", *every, axis=2) if len(every) > 1 else every[0]
            first = [project(graph, joined, cell) for cell in cells]
        states = [
            run_layer(graph, projected, sequences, cell, reverse=bool(way))
            for way, (projected, cell) in enumerate(zip(first, cells, strict=True))
        ]
    return states


def cells_of(layer: nn.Layer) -> list[nn.Layer]:
    """Return the cells of one layer: the forward one, and the backward one if there is one."""
    return [layer.cell_fw, layer.cell_bw] if hasattr(layer, "cell_fw") else [layer.cell]
