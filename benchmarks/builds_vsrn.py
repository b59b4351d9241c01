"""Training VSRN against an earlier build: embedding 2048, 36 regions of 2048 numbers, batch 128."""

from _builds import race_builds

if __name__ == "__main__":
    race_builds("train", "vsrn", 400, {"float32": 1.15, "bfloat16": 1.5}, "VSRN training against 79f190b")
