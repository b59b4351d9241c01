"""The CNNs of MODEL.CNN, and the pixels that each of them expects."""

CNN_NAMES = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "mobilenet_v2", "vgg16", "vgg19"),
    *("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"),
)

PACKAGE = "package:"  # before the name of an installed Python package that holds weights, in place of a path

IMAGENET_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
IMAGENET_SCALE = (1 / (0.229 * 255), 1 / (0.224 * 255), 1 / (0.225 * 255))


def expected_pixels(cnn: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return the mean and the scale with which a CNN was trained: (pixel - mean) x scale, of 0 to 255."""
    if cnn.startswith("efficientnet_lite"):
        return (127.0, 127.0, 127.0), (1 / 128, 1 / 128, 1 / 128)
    return IMAGENET_MEAN, IMAGENET_SCALE
