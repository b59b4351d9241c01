"""The model families by kind: how a family scores an image with a caption."""

DUAL_ENCODERS = ("vse", "vsepp", "vsrn")
"""Each side is encoded by itself, once, and two embeddings are compared."""
CROSS_ENCODERS = ("oscar",)
"""Both sides are read together, and so each pair is computed by itself."""
