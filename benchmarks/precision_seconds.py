"""What bfloat16 saves on one thread, in seconds of the processor, which other work changes little.

Captions are encoded as VSE++ does (GRU of 1,024, words of 300), and 64 pairs of 20 to 50 tokens and 20 to 50
regions are scored by four layers of BERT-base.
"""

from _race import VOCABULARY, corpora
from _report import alternate, report

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from datasets.words.vocabulary import Vocabulary
from engine.runtime import prepare_runtime

CAPTIONS, PAIRS, IMAGES = 2500, 64, 8
FLOAT32, BFLOAT16 = "float32", "bfloat16"


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    prepare_runtime("cpu", threads=1)
    from models.kernels import onednn

    if not onednn.has_bfloat16():
        print("bfloat16: not here, since the processor has no instructions for it")
        return
    for name, work in {**caption_encodings(), "four layers of BERT-base": pair_scoring()}.items():
        compare(name, work)


def compare(name: str, work: Callable[[], np.ndarray]) -> None:
    """Report the seconds of `work` in both precisions, and print how far its results are apart."""
    from models.kernels.precision import computing_in

    def seconds_in(precision: str) -> float:
        with computing_in(precision):
            started = time.process_time()
            work()
            return time.process_time() - started

    results = []
    for precision in (FLOAT32, BFLOAT16):
        with computing_in(precision):
            results.append(work())
    print(f"{name}: largest difference of a number: {np.abs(results[0] - results[1]).max():.1e}", flush=True)
    lowered, full = alternate(lambda: seconds_in(BFLOAT16), lambda: seconds_in(FLOAT32), rounds=3)
    report(f"bfloat16 against float32, {name}", lowered, full, 1.5, "s of one core", higher_is_better=False)


def caption_encodings() -> dict[str, Callable[[], np.ndarray]]:
    """Return the work of encoding the distinct captions of each corpus."""
    import paddle

    from models.encoders import GRUTextEncoder

    found = {}
    for corpus, captions in corpora("encode", CAPTIONS).items():
        with tempfile.TemporaryDirectory() as folder:
            Vocabulary.build(captions, "whitespace", 1, "vsepp").save(Path(folder) / VOCABULARY)
            words = Vocabulary.load(Path(folder) / VOCABULARY)
        tokens = [words.encode(caption) for caption in sorted(set(captions))]
        length = np.array([len(each) for each in tokens])
        padded = np.zeros((len(tokens), length.max()), np.int64)
        for row, each in enumerate(tokens):
            padded[row, : len(each)] = each
        encoder = GRUTextEncoder(len(words), 300, 1024)
        encoder.eval()
        batch = paddle.to_tensor(padded), paddle.to_tensor(length)

        def encode(encoder: paddle.nn.Layer = encoder, batch: tuple = batch) -> np.ndarray:
            with paddle.no_grad():
                return encoder(*batch).numpy()

        found[f"{len(tokens)} captions, {corpus}"] = encode
    return found


def pair_scoring() -> Callable[[], np.ndarray]:
    """Return the work of scoring pairs whose lengths are drawn at random."""
    import paddle

    from models.bert import Bert, BertShape

    random = np.random.default_rng(0)
    batch = {
        "token_ids": random.integers(5, 30000, (PAIRS, 50)),
        "segment_ids": np.zeros((PAIRS, 50), np.int64),
        "text_len": random.integers(20, 50, PAIRS),
        "regions": random.standard_normal((IMAGES, 50, 2054), dtype=np.float32),
        "num_regions": random.integers(20, 50, IMAGES),
        "image_row": np.repeat(np.arange(IMAGES), PAIRS // IMAGES),
    }
    batch = {name: paddle.to_tensor(array) for name, array in batch.items()}
    bert = Bert(BertShape(vocab_size=30522, num_layers=4, region_dim=2054))
    bert.eval()

    def score() -> np.ndarray:
        with paddle.no_grad():
            return bert(batch).numpy()

    return score


if __name__ == "__main__":
    main()
