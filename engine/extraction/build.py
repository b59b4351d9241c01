"""From the files of a backbone and a detector to what extracts features."""

from config.errors import UserError
from config.network_files import Backbone, Detector
from datasets.pictures.loader import PictureLoader
from datasets.pictures.transforms import Normalization, ResizeCentreCrop, Stretch, TenCrop, Transform
from engine.extraction.extractors import GridExtractor, Network, PooledExtractor, RegionExtractor
from engine.extraction.onnx_backbone import OnnxNetwork
from engine.extraction.yolox import Yolox


def build_transform(backbone: Backbone, ten_crop: bool) -> Transform:
    """Return how pictures are cut for a backbone; ten crops are of the RESIZE of its file."""
    if ten_crop:
        return TenCrop(backbone.resize, backbone.size)
    if backbone.cut == "stretch":
        return Stretch(backbone.size)
    return ResizeCentreCrop(backbone.resize, backbone.size)


def build_network(backbone: Backbone, as_map: bool, threads: int) -> Network:
    """Return the network of a backbone, with its map [B,F,h,w] or else its vectors as output."""
    if backbone.kind == "paddle":
        from engine.extraction.paddle_backbone import PaddleNetwork

        return PaddleNetwork(backbone.model, backbone.weights, as_map)
    if as_map and not backbone.grid:
        raise UserError(f"{backbone.path}: GRID: expected the output of a map for --grid, got none")
    output = backbone.grid if as_map else backbone.pooled or backbone.grid
    return OnnxNetwork(backbone.model, backbone.input, output, backbone.size, threads)


def normalization_of(network: Backbone | Detector) -> Normalization:
    """Return how pixels become a network's numbers."""
    return Normalization(network.mean, network.scale, network.bgr)


def build_pooled(loader: PictureLoader, backbone: Backbone, threads: int) -> PooledExtractor:
    """Return what makes a vector a picture."""
    return PooledExtractor(loader, build_network(backbone, as_map=False, threads=threads))


def build_grid(loader: PictureLoader, backbone: Backbone, side: int, threads: int) -> GridExtractor:
    """Return what makes side x side regions a picture."""
    return GridExtractor(loader, build_network(backbone, as_map=True, threads=threads), side)


def build_regions(
    loader: PictureLoader,
    backbone: Backbone,
    detector: Detector,
    least_score: float,
    fewest: int,
    most: int,
    threads: int,
) -> RegionExtractor:
    """Return what makes the regions that a detector finds; the arguments are those of `find_regions`."""
    finder = Yolox(
        OnnxNetwork(detector.model, detector.input, detector.output, detector.size, threads),
        normalization_of(detector),
        detector.size,
        detector.strides,
        detector.pad,
        detector.classes,
        detector.overlap,
    )
    network = build_network(backbone, as_map=False, threads=threads)
    return RegionExtractor(loader, network, backbone.size, finder, least_score, fewest, most)
