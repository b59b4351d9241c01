"""Scoring and training with Oscar, BERT-base, against an earlier build: 8 images x 16 captions, batch 8."""

from _builds import race_oscar_builds

if __name__ == "__main__":
    race_oscar_builds("score", {"float32": 1.05, "bfloat16": 1.6}, "Oscar scoring against 79f190b")
    race_oscar_builds("train", {"float32": 1.05, "bfloat16": 1.4}, "Oscar training against 79f190b")
