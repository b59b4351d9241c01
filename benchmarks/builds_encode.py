"""Encoding with VSE++ against an earlier build: embedding 1024, words 300, images 4096, batch 128."""

from _builds import race_builds

if __name__ == "__main__":
    race_builds("encode", "vsepp", 1000, {"float32": 1.25, "bfloat16": 1.8}, "VSE++ encoding against 79f190b")
