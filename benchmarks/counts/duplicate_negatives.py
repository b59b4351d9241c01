"""How often a batch's hardest negative is no negative: the same sentence, or a caption of the same picture.

    python benchmarks/counts/duplicate_negatives.py path/to/rsicd_precomp

Random batches of RSICD's training captions, as VSE++ draws them, each with its picture; scores are cosines of
the embeddings of `ridge.py`. A negative is any other caption of the batch (LOSS.MASK_DUPLICATES=false).
"""

import sys
from pathlib import Path

import numpy as np
from ridge import ridge_embeddings

BATCHES = 300


def main() -> None:
    images, texts, owner, captions = ridge_embeddings(Path(sys.argv[1]), "train")
    number: dict[str, int] = {}
    sentence = np.array([number.setdefault(line.strip(), len(number)) for line in captions])
    print(f"{len(captions)} captions, {len(number)} distinct sentences")
    random = np.random.default_rng(0)
    print(f"{'batch':>6}{'has one, %':>12}{'is one, %':>12}{'is the picture`s own, %':>25}")
    for size in (32, 128, 512):
        found = []
        for _ in range(BATCHES):
            rows = random.choice(len(captions), size, replace=False)
            scores = images[owner[rows]] @ texts[rows].T
            same = sentence[rows][:, None] == sentence[rows][None]
            own = owner[rows][:, None] == owner[rows][None]
            np.fill_diagonal(same, False)
            np.fill_diagonal(own, False)
            np.fill_diagonal(scores, -np.inf)
            hardest = scores.argmax(axis=1)
            place = np.arange(size)
            wrong = same | own
            found.append([wrong.any(axis=1).mean(), wrong[place, hardest].mean(), own[place, hardest].mean()])
        has, is_one, of_own = 100 * np.mean(found, axis=0)
        print(f"{size:>6}{has:>12.1f}{is_one:>12.1f}{of_own:>25.1f}", flush=True)


if __name__ == "__main__":
    main()
