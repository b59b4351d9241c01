"""VSE++ training in bfloat16 against its twin under `torch.autocast(bfloat16)`, as train_vsepp.py trains."""

from _race import BFLOAT16, race

if __name__ == "__main__":
    race("train", "vsepp", 6000, 1.8, "VSE++ training in bfloat16, against autocast", (BFLOAT16, BFLOAT16))
