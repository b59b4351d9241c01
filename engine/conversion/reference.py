"""Compares a converted model with what the original computed: a `.npz` of its inputs and its outputs.

Of a dual encoder it holds `images` [N,F], [N,R,F] or [N,3,H,W] and `captions` [M,T] with `lengths` [M], or
captions of one length as `tokens_time_major` [T,M]; and of the outputs `img_emb` [N,D], `cap_emb` [M,D],
`scores` (or `scores_cosine`, `scores_order`) [N,M] at least one. Caption m belongs to image m // (M / N).
Of a cross encoder it holds the pairs `input_ids`, `segment_ids` [P,T], `attention_mask` [P,T+R] and
`img_feats` [P,R,F], image by image; `logits` [P,labels], `pooled` [P,D] or `probs` [P]; and `labels` [P], 1
where a pair matches. Both may hold `i2t_ranks` and `t2i_ranks`, 0-based.
"""

from pathlib import Path

import numpy as np
import paddle
from paddle import nn
from yacs.config import CfgNode

from config.errors import UserError
from datasets.array_files import read_npz
from datasets.build.words import load_words
from engine.ranking.metrics import ranks
from engine.ranking.similarity import similarity_of
from engine.runs.checkpoint import load_model
from models.build import build_model
from models.oscar import match_value

BOUND = 1e-5
Arrays = dict[str, np.ndarray]


def read_reference(path: Path) -> Arrays:
    """Return the arrays of a `.npz`; raise UserError if it is none, or holds objects."""
    return read_npz(path, (), "check --reference, or write it with numpy.savez")


def compare(checkpoint: Path, cfg: CfgNode, reference: Arrays, path: Path) -> dict:
    """Return the largest differences of the model in `checkpoint` from the `reference`, and equal ranks.

    Raises UserError, which names `path`, for arrays that are missing or do not fit the model.
    """
    if cfg.MODEL.NAME == "cnn":
        raise UserError("--reference: expected with a model of images and texts, got a CNN")
    model = build_model(cfg, len(load_words(cfg, checkpoint)))
    load_model(checkpoint, model, cfg.MODEL.NAME)
    model.eval()
    compute = _cross if cfg.MODEL.NAME == "oscar" else _dual
    try:
        with paddle.no_grad():
            return compute(model, cfg, reference)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        missing = f"no array {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
        raise UserError(
            f"{path}: {missing}: expected the original's inputs and outputs (docs/pretrained.md)"
        ) from error


def _dual(model: nn.Layer, cfg: CfgNode, reference: Arrays) -> dict:
    images = reference["images"].astype(np.float32)
    tokens = reference["tokens_time_major"].T if "tokens_time_major" in reference else reference["captions"]
    lengths = reference.get("lengths", np.full(len(tokens), tokens.shape[1]))
    if len(tokens) % len(images) or tokens.max() >= len(model.text_encoder.embed.weight):
        raise ValueError(
            f"{len(tokens)} captions of {len(images)} images, or words that the model does not know"
        )
    batch = _tensors({"token_ids": tokens.astype(np.int64), "text_len": lengths.astype(np.int64)})
    if images.ndim == 3:
        batch |= _tensors({"regions": images, "num_regions": np.full(len(images), images.shape[1])})
    else:
        batch |= _tensors({"pixels" if images.ndim == 4 else "features": images})
    ours = {"img_emb": model.encode_image(batch).numpy(), "cap_emb": model.encode_text(batch).numpy()}
    ours["scores"] = similarity_of(cfg.MODEL.MEASURE)(ours["img_emb"], ours["cap_emb"])
    if "gcn_regions" in reference and cfg.MODEL.NAME == "vsrn":
        ours["gcn_regions"] = model.image_encoder.reason(batch["regions"], batch["num_regions"])[0].numpy()
    scores = f"scores_{cfg.MODEL.MEASURE}"
    theirs = {name: reference.get(name) for name in ours}
    theirs["scores"] = reference.get("scores", reference.get(scores))
    if theirs["scores"] is None and theirs["img_emb"] is not None and theirs["cap_emb"] is not None:
        theirs["scores"] = similarity_of(cfg.MODEL.MEASURE)(theirs["img_emb"], theirs["cap_emb"])
    of_image = np.arange(len(tokens)) // (len(tokens) // len(images))
    return _compared(ours, theirs, reference, np.arange(len(images)), of_image)


def _cross(model: nn.Layer, cfg: CfgNode, reference: Arrays) -> dict:
    ids, mask = reference["input_ids"], reference["attention_mask"]
    width = ids.shape[1]
    text_len, num_regions = mask[:, :width].sum(axis=1), mask[:, width:].sum(axis=1)
    arrays = {
        "token_ids": ids[:, : text_len.max()].astype(np.int64),
        "segment_ids": reference["segment_ids"][:, : text_len.max()].astype(np.int64),
        "text_len": text_len.astype(np.int64),
        "regions": reference["img_feats"][:, : max(1, num_regions.max())].astype(np.float32),
        "num_regions": num_regions.astype(np.int64),
    }
    batch = _tensors(arrays)
    logits = model(batch)["logits"]
    ours = {"logits": logits.numpy(), "pooled": model.bert(batch, model.attends).numpy()}
    log_odds = match_value(logits).numpy().astype(np.float64)
    ours["probs"] = 1 / (1 + np.exp(-log_odds))
    theirs = {name: reference.get(name) for name in ours}
    # Pairs stand image by image, with the same captions for each image.
    match = reference["labels"].astype(bool)
    count = len(reference["i2t_ranks"]) if "i2t_ranks" in reference else _rows(match)
    of_image = match.reshape(count, -1).argmax(axis=0)
    ours["scores"] = log_odds.reshape(count, -1)
    if theirs["logits"] is not None:
        original = match_value(paddle.to_tensor(theirs["logits"])).numpy().astype(np.float64)
        theirs["scores"] = original.reshape(count, -1)
    return _compared(ours, theirs, reference, np.arange(count), of_image)


def _rows(match: np.ndarray) -> int:
    """Return the number of images of pairs that stand image by image: each caption matches one image."""
    matches = int(match.sum())
    if not matches or len(match) % matches:
        raise ValueError("labels: expected one match a caption, all captions for each image")
    return len(match) // matches


def _compared(
    ours: Arrays, theirs: dict, reference: Arrays, images: np.ndarray, of_image: np.ndarray
) -> dict:
    outputs, found = {}, {}
    for name, array in ours.items():
        other = theirs.get(name)
        if other is not None:
            if other.shape != array.shape:
                raise ValueError(f"{name} is {list(other.shape)}, the model's is {list(array.shape)}")
            difference = np.abs(array.astype(np.float64) - other)
            outputs[name] = {
                "largest_difference": float(difference.max()),
                "largest": float(np.abs(other).max()),
            }
    if not outputs:
        raise ValueError(f"no output to compare, expected one of {', '.join(ours)}")
    own = {"i2t": ranks(ours["scores"], images, of_image), "t2i": ranks(ours["scores"].T, of_image, images)}
    for way, rank in own.items():
        expected = reference.get(f"{way}_ranks")
        if expected is None and theirs.get("scores") is not None:
            scores = theirs["scores"] if way == "i2t" else theirs["scores"].T
            expected = ranks(scores, *((images, of_image) if way == "i2t" else (of_image, images)))
        if expected is not None:
            found[way] = {"queries": len(rank), "equal": int((rank == expected).sum())}
    close = all(row["largest_difference"] <= BOUND * max(1.0, row["largest"]) for row in outputs.values())
    agrees = close and all(row["equal"] == row["queries"] for row in found.values())
    return {"outputs": outputs, "ranks": found, "bound": BOUND, "agrees": agrees}


def _tensors(arrays: Arrays) -> dict[str, paddle.Tensor]:
    return {name: paddle.to_tensor(array) for name, array in arrays.items()}
