"""The model families by kind: what a family compares, and how."""

DUAL_ENCODERS = ("vse", "vsepp", "vsrn")
"""Each side is encoded by itself, once, and two embeddings are compared."""
CROSS_ENCODERS = ("oscar",)
"""Both sides are read together, and so each pair is computed by itself."""
IMAGE_ENCODERS = ("cnn",)
"""Pictures alone are encoded, and compared with each other by class."""
METRIC_LOSSES = (
    "softmax",
    "triplet",
    "batch_hard",
    "semi_hard",
    "quadruplet",
    "adaptive_quadruplet",
    "margin_sample_mining",
)
"""The losses of image encoders, over images and their classes."""
