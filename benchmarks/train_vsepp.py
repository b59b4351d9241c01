"""Training VSE++ at embedding 1024, word 300, image 4096, batch 128, against its PyTorch twin."""

from _race import race

if __name__ == "__main__":
    race("train", "vsepp", images=6000, goal=1.0, claim="VSE++ training")
