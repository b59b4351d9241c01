"""Write a small BERT of PaddleNLP, and what it computes, into the folder that is named."""

import sys
import warnings
from pathlib import Path

import numpy as np

warnings.simplefilter("ignore")
import paddle  # noqa: E402
from paddlenlp.transformers import BertConfig, BertModel  # noqa: E402

SIZES = {
    "vocab_size": 40,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 12,
    "type_vocab_size": 2,
    "initializer_range": 0.3,
}


def main(folder: Path) -> None:
    """Save weights as .pdparams and as safetensors, and inputs and outputs as .npz."""
    paddle.seed(5)
    model = BertModel(BertConfig(**SIZES))
    for parameter in model.parameters():
        parameter.set_value(parameter + 0.1 * paddle.randn(parameter.shape))  # biases and norms too
    model.eval()
    random = np.random.default_rng(0)
    text_len = np.array([12, 3, 7])
    token_ids = random.integers(1, 40, (3, 12)) * (np.arange(12) < text_len[:, None])
    segment_ids = (np.arange(12) >= 5).astype(np.int64) * (token_ids > 0)
    mask = (np.arange(12) < text_len[:, None]).astype(np.float32)
    sequence, pooled = model(
        paddle.to_tensor(token_ids),
        token_type_ids=paddle.to_tensor(segment_ids),
        attention_mask=paddle.to_tensor(mask),
        return_dict=False,
    )
    for name, safe in (("pdparams", False), ("safetensors", True)):
        model.save_pretrained(folder / name, safe_serialization=safe)
        (folder / name / "vocab.txt").write_text("".join(f"word{number}\n" for number in range(40)))
    np.savez(
        folder / "golden.npz",
        token_ids=token_ids,
        segment_ids=segment_ids,
        text_len=text_len,
        sequence=sequence.numpy(),
        pooled=pooled.numpy(),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
