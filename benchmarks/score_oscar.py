"""Scoring pairs with Oscar, BERT-base, against its PyTorch twin: 12 layers of 768, 8 images x 16 captions.

The twin pads each pair to 70 tokens and 50 regions, as the original does. Both sides read the same tokens and
features, are in evaluation mode, and must agree to 1e-5.
"""

from _oscar_corpus import race_oscar
from _report import report

if __name__ == "__main__":
    corpus, ours, twin = race_oscar("score")
    report(f"Oscar scoring, BERT-base, {corpus}", ours, twin, goal=2, unit="pairs/s", higher_is_better=True)
