"""Encoding with VSE at embedding 1024, word 300, image 4096, batch 128, against its PyTorch twin."""

from _race import race

if __name__ == "__main__":
    race("encode", "vse", images=1000, goal=1.5, claim="VSE encoding")
