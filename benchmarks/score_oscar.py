"""Scoring pairs with Oscar, BERT-base, against its PyTorch twin: 12 layers of 768, 8 images x 16 captions.

The twin pads each pair to 70 tokens and 50 regions, as the original does, and is one of float32. Both sides
read the same tokens and features, are in evaluation mode, and must agree to 1e-5, in bfloat16 to 0.05.
"""

from _oscar_corpus import race_oscar

if __name__ == "__main__":
    race_oscar("score", {"float32": 2.8, "bfloat16": 4.2}, "Oscar scoring, BERT-base", "pairs/s")
