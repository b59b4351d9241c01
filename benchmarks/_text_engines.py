"""A side that encodes captions with VSE++: `python _text_engines.py encode vsepp FOLDER ENGINE`.

The engine is `ours` in bfloat16, `openvino` in bfloat16 or `torch`, whose GRU has int8 weights. Ours writes
the weights, which the others read, so it comes first.
"""

from _race import WEIGHTS, measure_turns

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

ENGINES = {"openvino": "OpenVINO in bfloat16", "torch": "PyTorch's int8 GRU"}
SENTENCES = "sentences/s"
LARGEST_DIFFERENCE = 0.05  # of a number of an embedding of norm 1; int8 weights differ most
BATCH = 256


def ours(folder: Path) -> Callable[[], np.ndarray]:
    from _ours import our_config

    from engine.runtime import prepare_runtime

    cfg = our_config("vsepp", folder)
    prepare_runtime("cpu", precision="bfloat16")

    from datasets.build.dual import build_dataset, build_vocabulary
    from engine.evaluation.dual import encode_captions
    from models.build import build_model

    vocabulary = build_vocabulary(cfg)
    dataset = build_dataset(cfg, cfg.DATASET.TRAIN, vocabulary, training=False)
    model = build_model(cfg, len(vocabulary))
    np.savez(folder / WEIGHTS, **{name: weight.numpy() for name, weight in model.named_parameters()})
    return lambda: encode_captions(model, dataset, cfg.EVAL.BATCH_SIZE)[0]


def other(folder: Path, engine: str) -> Callable[[], np.ndarray]:
    """Return what encodes the distinct sentences, in the order in which ours has them."""
    import torch
    from _ours import our_config
    from _twins import VSEPP, Twin

    from datasets.build.dual import build_dataset, build_vocabulary
    from engine.runtime import usable_cores

    cores = usable_cores()
    torch.set_num_threads(cores)
    cfg = our_config("vsepp", folder)
    dataset = build_dataset(cfg, cfg.DATASET.TRAIN, build_vocabulary(cfg), training=False)
    _, captions = np.unique(dataset.sentence_ids, return_index=True)
    twin = Twin("vsepp", folder, VSEPP)
    twin.load(dict(np.load(folder / WEIGHTS)))
    text = twin.model.text.eval()
    encode = {"openvino": by_openvino, "torch": by_torch}[engine](text, cores)
    tokens = [torch.tensor(twin.captions[caption]) for caption in captions]
    lengths = torch.from_numpy(twin.lengths[captions])
    order = torch.argsort(-lengths, stable=True).split(BATCH)
    batches = [
        (
            rows,
            torch.nn.utils.rnn.pad_sequence([tokens[row] for row in rows], batch_first=True),
            lengths[rows],
        )
        for rows in order
    ]
    embeddings = np.empty((len(captions), text.rnn.hidden_size), np.float32)

    def encode_all() -> np.ndarray:
        for rows, *batch in batches:
            embeddings[rows.numpy()] = encode(*batch)
        return embeddings.copy()

    return encode_all


def by_torch(text: object, cores: int) -> Callable:
    import torch

    text = torch.ao.quantization.quantize_dynamic(text, {torch.nn.GRU}, dtype=torch.qint8)

    def encode(tokens: torch.Tensor, lengths: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            return text(tokens, lengths).numpy()

    return encode


def by_openvino(text: object, cores: int) -> Callable:
    import openvino
    import torch
    from _twins import l2norm

    class Padded(torch.nn.Module):
        """The encoder without packing, for which OpenVINO has no operation: padding comes after the end."""

        def __init__(self) -> None:
            super().__init__()
            self.text = text

        def forward(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            states = self.text.rnn(self.text.embed(tokens))[0]
            last = (lengths - 1).view(-1, 1, 1).expand(-1, 1, states.shape[2])
            return l2norm(states.gather(1, last).squeeze(1))

    example = torch.ones(2, 3, dtype=torch.long), torch.tensor([3, 2])
    model = openvino.convert_model(Padded().eval(), example_input=example, input=[[-1, -1], [-1]])
    hints = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16",
        "INFERENCE_NUM_THREADS": cores,
    }
    compiled = openvino.Core().compile_model(model, "CPU", hints)
    request = compiled.create_infer_request()
    return lambda tokens, lengths: request.infer([tokens.numpy(), lengths.numpy()])[0]


def main() -> None:
    folder, engine = Path(sys.argv[3]), sys.argv[4]
    encode = ours(folder) if engine == "ours" else other(folder, engine)
    measure_turns(encode, folder / f"{engine}.npy")


if __name__ == "__main__":
    main()
