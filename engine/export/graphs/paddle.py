"""Graphs for Paddle Inference, traced from the model."""

from pathlib import Path

import paddle
from paddle import Tensor, nn
from paddle.static import InputSpec
from yacs.config import CfgNode

from config.errors import UserError
from config.families import FAMILIES
from engine.export.inference import PROGRAM, WEIGHTS
from engine.tasks.task import Trained


class _Image(nn.Layer):
    """The image encoder of a dual encoder, as a function of one tensor."""

    def __init__(self, encoder: nn.Layer) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        return self.encoder(images)


class _Text(nn.Layer):
    """The text encoder of a dual encoder."""

    def __init__(self, encoder: nn.Layer) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, token_ids: Tensor, text_len: Tensor) -> Tensor:
        return self.encoder(token_ids, text_len)


class _Pictures(nn.Layer):
    """The embedder of metric learning."""

    def __init__(self, embedder: nn.Layer) -> None:
        super().__init__()
        self.embedder = embedder

    def forward(self, images: Tensor) -> Tensor:
        return self.embedder.encode_image({"pixels": images})


def write_paddle_graphs(cfg: CfgNode, trained: Trained, folder: Path) -> dict:
    """Write the graphs of a model for Paddle Inference; return the entry `graphs` of the description.

    Raises UserError for a family whose layers leave out padding by its values, which a trace cannot hold.
    """
    family = FAMILIES[cfg.MODEL.NAME]
    if family.sees_regions:
        raise UserError(
            f"--format paddle: {cfg.MODEL.NAME} computes without the padding of its regions, which Paddle "
            "cannot trace: use --format onnx"
        )
    crop = cfg.INPUT.CROP_SIZE
    name, shape = ("pixels", [3, crop, crop]) if cfg.MODEL.CNN else ("features", [cfg.INPUT.IMG_FEATURE_DIM])
    images = {name: (["batch", *shape], "float32")}
    if family.kind == "image":
        return {"image": _write(folder, "image", _Pictures(trained.model), images)}
    texts = {"token_ids": (["batch", "length"], "int64"), "text_len": (["batch"], "int64")}
    return {
        "image": _write(folder, "image", _Image(trained.model.image_encoder), images),
        "text": _write(folder, "text", _Text(trained.model.text_encoder), texts),
    }


def _write(folder: Path, name: str, layer: nn.Layer, inputs: dict[str, tuple[list, str]]) -> dict:
    layer.eval()
    specs = [
        InputSpec([None if isinstance(axis, str) else axis for axis in shape], dtype, title)
        for title, (shape, dtype) in inputs.items()
    ]
    paddle.jit.save(layer, str(folder / name), input_spec=specs)
    return {
        "file": f"{name}{PROGRAM}",
        "weights": f"{name}{WEIGHTS}",
        "inputs": [
            {"name": title, "type": dtype, "shape": shape} for title, (shape, dtype) in inputs.items()
        ],
        "outputs": [{"name": "embedding", "type": "float32", "shape": ["batch", "width"]}],
    }
