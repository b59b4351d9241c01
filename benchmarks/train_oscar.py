"""Training Oscar at BERT-base's size against its PyTorch twin: 12 layers of 768, 8 captions a step.

A step has a positive and a negative pair of each caption, which count as one. The twin pads each to 70 tokens
and 50 regions, as the original does. Both sides have a dropout of 0.1, and AdamW with gradients clipped to a
norm of 1.
"""

from _oscar_corpus import race_oscar
from _report import report

if __name__ == "__main__":
    corpus, ours, twin = race_oscar("train")
    report(
        f"Oscar training, BERT-base, batch 8, {corpus}",
        ours,
        twin,
        goal=1.5,
        unit="positive pairs/s",
        higher_is_better=True,
    )
