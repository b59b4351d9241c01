"""Training Oscar at BERT-base's size against its PyTorch twin: 12 layers of 768, 8 captions a step.

A step has a positive and a negative pair of each caption, which count as one. The twin pads each to 70 tokens
and 50 regions, as the original does, and is one of float32. Both sides have a dropout of 0.1, and AdamW with
gradients clipped to a norm of 1.
"""

from _oscar_corpus import race_oscar

if __name__ == "__main__":
    goals = {"float32": 1.8, "bfloat16": 2.5}
    race_oscar("train", goals, "Oscar training, BERT-base, batch 8", "positive pairs/s")
