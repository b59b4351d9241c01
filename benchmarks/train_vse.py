"""Training VSE against its PyTorch twin: embedding 1024, words 300, images 4096, batch 128."""

from _race import race

if __name__ == "__main__":
    race("train", "vse", images=6000, goal=1.0, claim="VSE training")
