"""The best hits stand in the order of what scores pairs."""

import numpy as np
import pytest

from config.errors import UserError
from serving.index.index import Hit
from serving.index.reranking import Reranker


class SumOfRegions:
    """Scores a sentence with a picture by its regions' sum, times the length of the sentence."""

    def score_pairs(self, texts, regions, counts, tags):
        self.tags = tags
        sums = [region[:count].sum() for region, count in zip(regions, counts, strict=True)]
        return np.float32([len(text) * total for text, total in zip(texts, sums, strict=True)])


def test_hits_are_put_in_another_order(tmp_path):
    features = np.random.default_rng(0).standard_normal((9, 3, 4)).astype(np.float32)
    np.save(tmp_path / "test_ims.npy", features)
    (tmp_path / "test_ids.txt").write_text("".join(f"{row}.jpg\n" for row in range(9)))
    scorer, hits = SumOfRegions(), [Hit(f"{row}.jpg", 1 - row / 10, "caption") for row in (4, 0, 7, 2)]
    found = Reranker(scorer, tmp_path / "test_ims.npy").reordered("four", hits)
    sums = {row: 4 * features[row].sum() for row in (4, 0, 7, 2)}
    expected = sorted(sums, key=lambda row: -sums[row])
    assert [hit.id for hit in found] == [f"{row}.jpg" for row in expected]
    assert [hit.before for hit in found] == [[4, 0, 7, 2].index(row) + 1 for row in expected]
    assert found[0].caption == "caption" and scorer.tags == [[]] * 4
    with pytest.raises(UserError, match="no row is of the picture 'x.jpg', which --rerank reads"):
        Reranker(scorer, tmp_path / "test_ims.npy").reordered("four", [Hit("x.jpg", 1)])
