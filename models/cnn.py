"""Convolutional networks as encoders of pixels: from images [B,3,H,W] to vectors [B,F]."""

import warnings
from collections.abc import Callable

import paddle
from paddle import Tensor, nn
from paddle.vision import models as vision

from models.encoders import ImageEncoder, l2norm

warnings.filterwarnings("ignore", message="When training, we now always track global mean and variance")


def _vgg(network: Callable[..., nn.Layer]) -> Callable[[], nn.Layer]:
    """Return a VGG up to its last layer but one, whose 4096 outputs VSE++ takes."""

    def build() -> nn.Layer:
        built = network()
        built.classifier = nn.Sequential(*list(built.classifier.children())[:-1])
        return built

    return build


CNNS: dict[str, tuple[Callable[[], nn.Layer], int]] = {
    "resnet18": (lambda: vision.resnet18(num_classes=0), 512),
    "resnet34": (lambda: vision.resnet34(num_classes=0), 512),
    "resnet50": (lambda: vision.resnet50(num_classes=0), 2048),
    "resnet101": (lambda: vision.resnet101(num_classes=0), 2048),
    "resnet152": (lambda: vision.resnet152(num_classes=0), 2048),
    "mobilenet_v2": (lambda: vision.mobilenet_v2(num_classes=0), 1280),
    "vgg16": (_vgg(vision.vgg16), 4096),
    "vgg19": (_vgg(vision.vgg19), 4096),
}
"""The network without its classifier, and the width F of what it makes of an image."""


class Cnn(nn.Layer):
    """One of `CNNS`. While `frozen` it has no gradient, and its normalisation stays as it is.

    feature_dim: F. Raises ValueError for an unknown name.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        if name not in CNNS:
            raise ValueError(f"CNN: expected one of {sorted(CNNS)}, got {name!r}")
        build, self.feature_dim = CNNS[name]
        self.network = build()
        self.frozen = False

    def forward(self, images: Tensor) -> Tensor:
        """Return the features [B,F] of normalised `images` [B,3,H,W]."""
        if not self.frozen:
            return self.network(images).flatten(1)
        self.network.eval()
        with paddle.no_grad():
            return self.network(images).flatten(1)


class CnnImageEncoder(nn.Layer):
    """A CNN whose l2-normalised features are mapped into the joint embedding (VSE++, from pixels)."""

    def __init__(self, cnn: Cnn, head: ImageEncoder) -> None:
        super().__init__()
        self.cnn = cnn
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Encode `images` [B,3,H,W] as [B,D]."""
        return self.head(l2norm(self.cnn(images)))


class ImageEmbedder(nn.Layer):
    """A CNN for image-to-image retrieval: its features, or a linear map of them to `embed_dim` (0: none).

    A batch holds `image` [B,3,H,W].
    """

    measure = "cosine"

    def __init__(self, cnn: Cnn, embed_dim: int = 0) -> None:
        super().__init__()
        self.cnn = cnn
        self.fc = nn.Linear(cnn.feature_dim, embed_dim) if embed_dim else None
        self.embed_dim = embed_dim or cnn.feature_dim

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return `image` [B,D], not normalised: what the losses of metric learning take."""
        features = self.cnn(batch["image"])
        return {"image": features if self.fc is None else self.fc(features)}

    def encode_image(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the l2-normalised embeddings [B,D] of the batch's images."""
        return l2norm(self(batch)["image"])


def cnn_of(model: nn.Layer) -> Cnn | None:
    """Return the CNN that is part of `model`, if one is."""
    return next((layer for layer in model.sublayers() if isinstance(layer, Cnn)), None)
