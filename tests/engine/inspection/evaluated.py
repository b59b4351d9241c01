"""A small evaluated split, with its whole matrix of scores to recount from by plain loops."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from datasets.relevance import Relevance, own_captions
from engine.certificates.sides import Side
from engine.certificates.stored import RANKS_FILE, write_ranks
from engine.inspection.kept_lists import LISTS_FILE, ListKeeper, write_lists
from engine.ranking.metrics import summarize
from engine.ranking.ranks import Question, row_counter

IMAGES, EACH = 14, 3


@dataclass
class Split:
    """Fourteen images with three captions each; some sentences describe several images."""

    seed: int = 0
    coarse: bool = False
    folds: int = 1
    scores: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        random = np.random.default_rng(self.seed)
        self.image_ids = [f"{number}.jpg" for number in range(IMAGES)]
        self.caption_image = np.repeat(np.arange(IMAGES), EACH)
        self.num_captions = IMAGES * EACH
        self.sentence_ids = np.random.default_rng(9).integers(0, 30, self.num_captions)
        self.captions = [f"sentence {number}" for number in self.sentence_ids]
        self.caption_ids = [f"c{place}" for place in range(self.num_captions)]
        self.relevance = own_captions(self.caption_image, IMAGES)
        self.image_fold = np.arange(IMAGES) * self.folds // IMAGES
        self.caption_fold = self.image_fold[self.caption_image]
        by_sentence = random.normal(size=(IMAGES, 30)).astype("f4")
        by_sentence[self.caption_image, self.sentence_ids] += 1
        self.scores = (np.round(by_sentence) if self.coarse else by_sentence)[:, self.sentence_ids]

    def kept(self, k: int = 6, step: int = 5):
        """Return the lists, from tiles in a shuffled order."""
        keeper, random = ListKeeper(self, k, self.image_fold), np.random.default_rng(1)
        rows, columns = random.permutation(IMAGES), random.permutation(self.num_captions)
        for i in range(0, IMAGES, step):
            for j in range(0, self.num_captions, 2 * step):
                own = rows[i : i + step], columns[j : j + 2 * step]
                keeper.write(*own, self.scores[np.ix_(*own)])
        return keeper.close()

    def sides(self, relevance: Relevance | None = None) -> dict[str, Side]:
        """Return the ranks of both directions from the whole matrix."""
        relevance = relevance or self.relevance
        folds = self.image_fold, self.caption_fold
        question = Question(relevance, *folds)
        within = relevance.within(*folds)
        sizes = [np.bincount(fold, minlength=self.folds) for fold in folds]
        counters = row_counter(self.scores, question), row_counter(self.scores.T, question.turned())
        owners = np.arange(IMAGES), self.caption_image
        return {
            "i2t_": Side.of(counters[0].tied(), owners[0], folds[0], within.of_images, sizes[1][folds[0]]),
            "t2i_": Side.of(counters[1].tied(), owners[1], folds[1], within.of_captions, sizes[0][folds[1]]),
        }

    def write(self, folder: Path, name: str = "a", k: int = 6, tie_rule: str = "against") -> Path:
        """Write result.json, ranks.npz and lists.npz into `folder`."""
        folder.mkdir(parents=True)
        sides = self.sides()
        metrics = summarize(*(side.ranks(tie_rule) for side in sides.values()))
        protocol = {"split": "test", "images": IMAGES, "captions": self.num_captions, "folds": self.folds}
        protocol |= {"tie_rule": tie_rule, "relevance": "image id"}
        config = {"DATASET": {"DATA_DIR": "", "IMAGE_DIR": ""}, "OUTPUT": {"SAVE_NAME": name}}
        content = {"metrics": metrics, "protocol": protocol, "config": config, "checkpoint": {}}
        (folder / "result.json").write_text(json.dumps(content))
        names = {"images": self.image_ids, "captions": self.captions}
        write_ranks(folder / RANKS_FILE, sides, tie_rule, names)
        write_lists(folder / LISTS_FILE, self.kept(k))
        return folder
