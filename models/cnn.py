"""Convolutional networks that encode images [B,3,H,W] as vectors [B,F]."""

import warnings
from collections.abc import Callable

import paddle
from paddle import Tensor, nn
from paddle.vision import models as vision

from models.efficientnet import FEATURE_DIM, EfficientNetLite
from models.encoders import ImageEncoder, l2norm

warnings.filterwarnings("ignore", message="When training, we now always track global mean and variance")


def _vgg(network: Callable[..., nn.Layer]) -> Callable[[], nn.Layer]:
    """Return a function that builds a VGG without its last layer, so that it has VSE++'s 4096 outputs."""

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
    "efficientnet_lite0": (lambda: EfficientNetLite(1.0, 1.0), FEATURE_DIM),
    "efficientnet_lite1": (lambda: EfficientNetLite(1.0, 1.1), FEATURE_DIM),
    "efficientnet_lite2": (lambda: EfficientNetLite(1.1, 1.2), FEATURE_DIM),
}
"""By name: a function that builds the network without its classifier, and the width F of its features."""


class Cnn(nn.Layer):
    """One of `CNNS`, by name.

    While `frozen` is true, the network gets no gradient, and its batch norms use and keep their running
    statistics. `feature_dim` is F. Raises ValueError for an unknown name.
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
        """Return the embeddings [B,D] of `images` [B,3,H,W]."""
        return self.head(l2norm(self.cnn(images)))


class ImageEmbedder(nn.Layer):
    """A CNN for image-to-image retrieval, with a linear map of its features to `embed_dim` dimensions.

    With an `embed_dim` of 0, the features themselves are the embedding. A batch holds `pixels` [B,3,H,W].
    """

    measure = "cosine"

    def __init__(self, cnn: Cnn, embed_dim: int = 0) -> None:
        super().__init__()
        self.cnn = cnn
        self.fc = nn.Linear(cnn.feature_dim, embed_dim) if embed_dim else None
        self.embed_dim = embed_dim or cnn.feature_dim

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return `image` [B,D], the embeddings before l2-normalisation, which metric learning losses take."""
        features = self.cnn(batch["pixels"])
        return {"image": features if self.fc is None else self.fc(features)}

    def encode_image(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the l2-normalised embeddings [B,D] of the batch's images."""
        return l2norm(self(batch)["image"])


def cnn_of(model: nn.Layer) -> Cnn | None:
    """Return the CNN in `model`, or None if there is none."""
    return next((layer for layer in model.sublayers() if isinstance(layer, Cnn)), None)
