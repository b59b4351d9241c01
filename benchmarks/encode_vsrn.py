"""Encoding images with VSRN against its PyTorch twin, at the original's sizes: 36 x 2048, embeddings of 2048.

Both sides are in evaluation mode and, unlike the original, store nothing for gradients. No caption is
decoded.
"""

from _race import race_on, random_captions
from _report import report

IMAGES = 512

if __name__ == "__main__":
    report(
        "VSRN encoding of images, embedding 2048",
        *race_on(random_captions(IMAGES), IMAGES, "encode", "vsrn"),
        goal=1.0,
        unit="images/s",
        higher_is_better=True,
    )
