"""Encoding with VSE against its PyTorch twin: embedding 1024, words 300, images 4096, batch 128."""

from _race import race

if __name__ == "__main__":
    race("encode", "vse", images=1000, goal=1.5, claim="VSE encoding")
