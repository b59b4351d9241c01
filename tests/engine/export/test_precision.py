import numpy as np
import onnx
import onnxruntime
import paddle

from engine.export.graphs.dual import encode_text
from engine.export.graphs.onnx_graph import OnnxGraph
from engine.export.precision import quantised_nodes, write_quantised
from models.encoders import GRUTextEncoder


def test_the_products_inside_a_loop_are_quantised_too(tmp_path):
    paddle.seed(0)
    encoder = GRUTextEncoder(50, 12, 32, bidirectional=True)
    encoder.eval()
    graph = OnnxGraph()
    model = graph.model(encode_text(graph, encoder), "embedding", ["batch", 32])
    path = tmp_path / "text.onnx"
    count = write_quantised(model, path)
    written = onnx.load(path).graph
    assert count == quantised_nodes(written)
    loops = [node for node in written.node if node.op_type == "Scan"]
    inside = [node.op_type for loop in loops for each in loop.attribute for node in each.g.node]
    assert inside.count("MatMulInteger") == 2, "one product in each direction"
    random = np.random.default_rng(0)
    arrays = {"token_ids": random.integers(50, size=(8, 9)), "text_len": random.integers(1, 10, size=8)}
    found = onnxruntime.InferenceSession(str(path)).run(None, arrays)[0]
    with paddle.no_grad():
        expected = encoder(*map(paddle.to_tensor, arrays.values())).numpy()
    assert 0 < np.abs(found - expected).max() < 0.05
