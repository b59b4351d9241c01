"""Builds feature extractors from the YAML files of a backbone and a detector, in float32 or bfloat16."""

import contextlib
from functools import lru_cache
from pathlib import Path

from config.errors import UserError
from config.files.networks import Backbone, Detector
from datasets.pictures.loader import PictureLoader
from datasets.pictures.transforms import Normalization, ResizeCentreCrop, Stretch, TenCrop, Transform
from engine.extraction.extractors import GridExtractor, Network, PooledExtractor, RegionExtractor
from engine.extraction.onednn_backbone import OnednnNetwork
from engine.extraction.onnx_backbone import OnnxNetwork
from engine.extraction.yolox import Yolox
from models.kernels import onednn
from models.kernels.precision import BFLOAT16, FLOAT32, resolve


def build_transform(backbone: Backbone, ten_crop: bool) -> Transform:
    """Return the transform of pictures for a backbone; ten crops are cut after its RESIZE."""
    if ten_crop:
        return TenCrop(backbone.resize, backbone.size)
    if backbone.cut == "stretch":
        return Stretch(backbone.size)
    return ResizeCentreCrop(backbone.resize, backbone.size)


def choose_precision(name: str, key: str, backbone: Backbone, as_map: bool) -> str:
    """Return float32 or bfloat16 for `name`, the value of `key`: one of these, or auto, or POSSIBLE.

    With auto it is bfloat16 where its products are quicker than those of float32 and the network can be run
    so, with POSSIBLE where there are products of it. Raises `UserError` for bfloat16 where it cannot be.
    """
    precision = resolve(name, key)
    if precision == BFLOAT16:
        try:
            build_network(backbone, as_map, precision)
        except UserError:
            if name == BFLOAT16:
                raise
            precision = FLOAT32
    return precision


@lru_cache(maxsize=1)  # pictures that come in parts are extracted by one network
def build_network(backbone: Backbone, as_map: bool, precision: str = FLOAT32) -> Network:
    """Return the network of a backbone; its output is a map [B,F,h,w] with `as_map`, otherwise vectors.

    Raises `UserError` for a network that is missing, or that cannot run in bfloat16 if that is its
    `precision`.
    """
    if backbone.kind == "paddle":
        if precision == BFLOAT16:
            raise UserError(
                f"{backbone.path}: bfloat16 is for networks with KIND: onnx, and this one has KIND: paddle: "
                "extract in float32"
            )
        from engine.extraction.paddle_backbone import PaddleNetwork

        return PaddleNetwork(backbone.model, backbone.weights, as_map)
    if backbone.weights:
        from engine.extraction.efficientnet_graph import write_onnx
        from engine.extraction.paddle_backbone import load_backbone

        network = load_backbone(backbone.model, backbone.weights).network
        content = write_onnx(network, backbone.size, pooled=not as_map)
        return _run(precision, backbone.path, "", "", backbone.size, content)
    if as_map and not backbone.grid:
        raise UserError(f"{backbone.path}: GRID: expected the output of a map for --grid, got none")
    output = backbone.grid if as_map else backbone.pooled or backbone.grid
    return _run(precision, backbone.model, backbone.input, output, backbone.size)


def _run(
    precision: str, path: str | Path, given: str, output: str, size: int, content: bytes | None = None
) -> Network:
    """Return a network by oneDNN, or by ONNX Runtime where that cannot, or is not known to be faster.

    The processor and the network decide, and no measurement: two runs make the same features.
    """
    network = path, given, output, size, content
    if precision == BFLOAT16:
        return OnednnNetwork(*network, precision)
    if onednn.has_wide_vectors():
        with contextlib.suppress(UserError):  # ONNX Runtime may know the operators, or says what is wrong
            return OnednnNetwork(*network, precision)
    return OnnxNetwork(*network)


def normalization_of(network: Backbone | Detector) -> Normalization:
    """Return the normalization of pixels for a network."""
    return Normalization(network.mean, network.scale, network.bgr)


def build_pooled(loader: PictureLoader, backbone: Backbone, precision: str = FLOAT32) -> PooledExtractor:
    """Return an extractor of one vector for each picture."""
    return PooledExtractor(loader, build_network(backbone, False, precision))


def build_grid(
    loader: PictureLoader, backbone: Backbone, side: int, precision: str = FLOAT32
) -> GridExtractor:
    """Return an extractor of side x side regions for each picture."""
    return GridExtractor(loader, build_network(backbone, True, precision), side)


def build_regions(
    loader: PictureLoader,
    backbone: Backbone,
    detector: Detector,
    least_score: float,
    fewest: int,
    most: int,
    precision: str = FLOAT32,
) -> RegionExtractor:
    """Return an extractor of the regions that a detector finds; the detector runs in float32.

    `least_score`, `fewest` and `most` are those of `find_regions`.
    """
    finder = Yolox(
        OnnxNetwork(detector.model, detector.input, detector.output, detector.size),
        normalization_of(detector),
        detector.size,
        detector.strides,
        detector.pad,
        detector.classes,
        detector.overlap,
    )
    network = build_network(backbone, False, precision)
    return RegionExtractor(loader, network, backbone.size, finder, least_score, fewest, most)
