"""Converting an Oscar of BERT-large's sizes, in a file of 1.3 GB, against copying it and against torch.

The file is made here, in the layout of torch.save. The twin reads it with torch.load and writes it with
safetensors; ours writes a run folder, with all linear maps transposed, checksums, a configuration and a
parity sheet. Both are commands of their own, so each includes its imports, and each waits for the disk.
"""

from _report import ROOT, peak_memory, report, run_child, seconds

import json
import math
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from engine.weights.stored import StoredTensor
from engine.conversion.torch_writer import write_torch_file

DIM, INNER, LAYERS, WORDS, REGION = 1024, 4096, 24, 30522, 2054
ROUNDS = 5
TWIN = """
import os, sys, torch
from safetensors.torch import save_file
tensors = torch.load(sys.argv[1], weights_only=True)
save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, sys.argv[2])
descriptor = os.open(sys.argv[2], os.O_RDONLY)
os.fsync(descriptor)
"""


def main() -> None:
    """Make the file, take turns, and report the times and the memory."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "oscar"
        write_oscar(source)
        size = (source / "pytorch_model.bin").stat().st_size / 1e9
        print(f"{size:.2f} GB", flush=True)
        times = [one_round(folder, source) for _ in range(ROUNDS + 1)][
            1:
        ]  # the first one warms the disk's cache
        ours, copy, twin = (statistics.median(column) for column in zip(*times, strict=True))
        memory = run_child(__file__, str(source), str(folder / "measured"))["memory"]
    report("converting 1.3 GB, against torch.load and safetensors", ours, twin, 1.5, "s", False)
    report("converting 1.3 GB, at most twice a copy", ours, 2 * copy, 1.0, "s", False)
    report("converting 1.3 GB, memory at most 1.3 times the file", memory, 1.3 * size, 1.0, "GB", False)


def one_round(folder: Path, source: Path) -> tuple[float, float, float]:
    """Return the seconds of our conversion, of a copy, and of the twin's."""
    weights, results = source / "pytorch_model.bin", [folder / name for name in ("ours", "copy", "twin")]
    ours = [sys.executable, str(ROOT / "tools/convert_weights.py"), str(source), str(results[0])]
    twin = [sys.executable, "-c", TWIN, str(weights), str(results[2])]
    times = (
        seconds(lambda: subprocess.run(ours, check=True, stdout=subprocess.DEVNULL)),
        seconds(lambda: copy(weights, results[1])),
        seconds(lambda: subprocess.run(twin, check=True)),
    )
    print("ours {:.2f} s, copy {:.2f} s, twin {:.2f} s".format(*times), flush=True)
    shutil.rmtree(results[0])
    for path in results[1:]:
        path.unlink()
    return times


def copy(source: Path, target: Path) -> None:
    """Copy a file and wait for the disk."""
    shutil.copyfile(source, target)
    descriptor = os.open(target, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def measure(source: str, output: str) -> None:
    """Convert in this process's child, and print the peak of its resident memory in GB."""
    command = [sys.executable, str(ROOT / "tools/convert_weights.py"), source, output]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    kilobytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(json.dumps({"memory": kilobytes * 1024 / 1e9, "own": peak_memory()}))


def write_oscar(folder: Path) -> None:
    """Write an Oscar of BERT-large's sizes as its training does."""
    folder.mkdir()
    config = {"vocab_size": WORDS, "hidden_size": DIM, "num_hidden_layers": LAYERS, "num_attention_heads": 16}
    config |= {"intermediate_size": INNER, "max_position_embeddings": 512, "type_vocab_size": 2}
    (folder / "config.json").write_text(json.dumps(config | {"img_feature_dim": REGION}))
    markers = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*markers, *(f"w{number}" for number in range(WORDS - len(markers)))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    noise = np.random.default_rng(0).standard_normal(WORDS * DIM, dtype=np.float32) * 0.02

    def tensor(shape: tuple[int, ...]) -> StoredTensor:
        return StoredTensor(shape, "float32", lambda: noise[: math.prod(shape)].reshape(shape))

    write_torch_file(folder / "pytorch_model.bin", {name: tensor(shape) for name, shape in shapes().items()})


def shapes() -> dict[str, tuple[int, ...]]:
    """Return the shapes of the Oscar's tensors by name."""
    linear = {"bert.img_embedding": (DIM, REGION), "bert.pooler.dense": (DIM, DIM), "classifier": (2, DIM)}
    norms = ["bert.embeddings.LayerNorm", "bert.LayerNorm"]
    for layer in range(LAYERS):
        name = f"bert.encoder.layer.{layer}"
        linear |= {f"{name}.attention.self.{part}": (DIM, DIM) for part in ("query", "key", "value")}
        linear |= {f"{name}.attention.output.dense": (DIM, DIM), f"{name}.intermediate.dense": (INNER, DIM)}
        linear[f"{name}.output.dense"] = (DIM, INNER)
        norms += [f"{name}.attention.output.LayerNorm", f"{name}.output.LayerNorm"]
    rows = {"word": WORDS, "position": 512, "token_type": 2}
    found = {f"bert.embeddings.{kind}_embeddings.weight": (count, DIM) for kind, count in rows.items()}
    for name, shape in linear.items():
        found |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name in norms:
        found |= {f"{name}.weight": (DIM,), f"{name}.bias": (DIM,)}
    return found


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(*sys.argv[1:])
    else:
        main()
