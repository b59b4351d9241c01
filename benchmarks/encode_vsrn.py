"""Encoding images with VSRN at the original's sizes against its PyTorch twin: 36 x 2048, embedding 2048.

Both sides are in evaluation and keep nothing for gradients, unlike the original; nothing is decoded.
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
