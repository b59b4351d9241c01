"""The text graph of an exported VSE++ (words 300, embedding 1024) against ONNX's own GRU in ONNX Runtime.

ONNX's GRU, with the lengths of the captions, is what a converter that keeps these would write. Both graphs
have the same weights and read the same batches, sorted by length. The int8 graph is the one that an export
with --precision int8 writes; docs/export.md has the recalls of int8.
"""

from _race import corpora
from _report import alternate, report, seconds

import tempfile
from pathlib import Path

import numpy as np

from datasets.words.packed_tokens import PackedTokens
from datasets.words.sentences import encode_sentences
from datasets.words.vocabulary import Vocabulary
from engine.runtime import prepare_runtime

WORD_DIM, EMBED_DIM, SENTENCES, TOGETHER, ROUNDS, ONES, LIMIT_MS = 300, 1024, 1024, 256, 5, 20, 5.0


def main() -> None:
    prepare_runtime("cpu")
    for corpus, captions in corpora("encode", SENTENCES).items():
        words = Vocabulary.build(captions, "whitespace", 1, "vsepp")
        tokens = PackedTokens.of(dict.fromkeys(encode_sentences(captions, words)))
        order = np.argsort(tokens.lengths, kind="stable")
        batches = [tokens.batch(part, 0) for part in np.split(order, range(TOGETHER, len(order), TOGETHER))]
        with tempfile.TemporaryDirectory() as folder:
            race(corpus, write_graphs(Path(folder), len(words)), batches)


def race(corpus: str, graphs: dict, batches: list[dict[str, np.ndarray]]) -> None:
    """Race both of our graphs against ONNX's GRU on the same batches, and time single sentences."""
    sentences = sum(len(batch["text_len"]) for batch in batches)
    embeddings = {name: [graph(**batch) for batch in batches] for name, graph in graphs.items()}
    for name in ("float32", "int8"):
        pairs = zip(embeddings[name], embeddings["onnx"], strict=True)
        print(f"{name}: largest difference {max(np.abs(a - b).max() for a, b in pairs):.1e}", flush=True)

    def speed(name: str) -> float:
        return sentences / seconds(lambda: [graphs[name](**batch) for batch in batches])

    for name, goal in (("float32", 1.5), ("int8", 2.5)):
        measured = alternate(lambda name=name: speed(name), lambda: speed("onnx"), ROUNDS)
        claim = f"encode captions with a bundle in {name}, against ONNX's GRU, {corpus}"
        report(claim, *measured, goal=goal, unit="sentences/s", higher_is_better=True)
    one = {key: value[:1] for key, value in batches[len(batches) // 2].items()}
    for name in ("float32", "int8"):
        spent = np.median([seconds(lambda name=name: graphs[name](**one)) for _ in range(ONES)])
        claim = f"one sentence of {one['text_len'][0]} tokens with a bundle in {name}, {corpus}"
        report(claim, 1000 * float(spent), LIMIT_MS, goal=1, unit="ms", higher_is_better=False)


def write_graphs(folder: Path, words: int) -> dict:
    """Return the graphs of an untrained encoder, by name."""
    import onnx

    from engine.export.graphs.dual import encode_text
    from engine.export.graphs.onnx_graph import OnnxGraph
    from engine.export.precision import write_quantised
    from models.encoders import GRUTextEncoder
    from serving.bundle.graph import Graph

    encoder = GRUTextEncoder(words, WORD_DIM, EMBED_DIM)
    encoder.eval()
    ours = OnnxGraph()
    model = ours.model(encode_text(ours, encoder), "embedding", ["batch", EMBED_DIM])
    onnx.save(model, folder / "float32.onnx")
    write_quantised(model, folder / "int8.onnx")
    plain = OnnxGraph()
    onnx.save(plain.model(onnx_gru(plain, encoder), "embedding", ["batch", EMBED_DIM]), folder / "onnx.onnx")
    return {name: Graph(folder / f"{name}.onnx") for name in ("float32", "int8", "onnx")}


def onnx_gru(graph, encoder) -> str:
    """Return the embeddings of captions by ONNX's GRU, whose gates stand in another order than Paddle's."""
    from onnx import TensorProto

    from engine.export.graphs.layers import array, l2norm

    token_ids = graph.input("token_ids", "int64", ["batch", "length"])
    length = graph.input("text_len", "int64", ["batch"])
    vectors = graph.weight(array(encoder.embed.weight))
    x = graph.add("Gather", vectors, graph.add("Transpose", token_ids, perm=[1, 0]))  # [T,B,E]
    cell = next(iter(encoder.rnn)).cell

    def by_gate(tensor) -> np.ndarray:
        reset, update, candidate = np.split(array(tensor), 3)
        return np.concatenate([update, reset, candidate])

    weights = [graph.weight(by_gate(tensor)[None]) for tensor in (cell.weight_ih, cell.weight_hh)]
    bias = graph.weight(np.concatenate([by_gate(cell.bias_ih), by_gate(cell.bias_hh)])[None])
    lengths = graph.add("Cast", length, to=TensorProto.INT32)
    _, last = graph.add_many(
        "GRU", 2, x, *weights, bias, lengths, hidden_size=EMBED_DIM, linear_before_reset=1
    )
    return l2norm(graph, graph.add("Squeeze", last, graph.constant([0])))


if __name__ == "__main__":
    main()
