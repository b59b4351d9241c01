"""Training VSE++ against an earlier build: embedding 1024, words 300, images 4096, batch 128."""

from _builds import race_builds

if __name__ == "__main__":
    race_builds("train", "vsepp", 6000, {"float32": 1.15, "bfloat16": 1.5}, "VSE++ training against 79f190b")
