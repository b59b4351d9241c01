"""Words are masked in a second copy of each positive pair, in its caption alone, and returned as targets."""

import numpy as np
import pytest

from datasets.words.masked_words import add_masked_pairs

CLS, SEP, HIDDEN = 2, 3, 1


@pytest.fixture
def batch() -> dict[str, np.ndarray]:
    """Return `[CLS] caption [SEP] tags [SEP]` of 60 pairs, the first 30 right, of 40 images."""
    random = np.random.default_rng(0)
    captions, tags = random.integers(1, 9, 60), random.integers(0, 4, 60)
    lengths = captions + 2 + np.where(tags, tags + 1, 0)
    tokens, segments = np.zeros((60, lengths.max()), np.int64), np.zeros((60, lengths.max()), np.int64)
    for pair, (caption, count, length) in enumerate(zip(captions, tags, lengths, strict=True)):
        words = random.integers(4, 100, caption + count)
        row = [CLS, *words[:caption], SEP, *words[caption:], *([SEP] if count else [])]
        tokens[pair, :length], segments[pair, caption + 2 : length] = row, 1
    return {
        "token_ids": tokens,
        "segment_ids": segments,
        "text_len": lengths,
        "image_row": random.integers(0, 40, 60),
        "match": np.repeat([1, 0], 30),
    }


def masked(batch: dict[str, np.ndarray], share: float = 0.5, seed: int = 1) -> dict[str, np.ndarray]:
    return add_masked_pairs(batch, share, HIDDEN, np.random.default_rng(seed))


def told(found: dict[str, np.ndarray]) -> list[tuple[int, int, int]]:
    return [*zip(*(found[f"masked_{name}"].tolist() for name in ("pair", "place", "id")), strict=True)]


def test_right_pairs_are_copied_and_words_of_the_copies_hidden(batch):
    found, hidden = masked(batch), []
    for name in ("segment_ids", "text_len", "image_row"):
        np.testing.assert_array_equal(found[name], np.concatenate([batch[name], batch[name][:30]]))
    np.testing.assert_array_equal(found["token_ids"][:60], batch["token_ids"])
    assert found["match"] is batch["match"]
    for pair in range(30):
        old, new = batch["token_ids"][pair], found["token_ids"][60 + pair]
        end = list(old).index(SEP)
        for place, (before, after) in enumerate(zip(old, new, strict=True)):
            assert after == before or (after == HIDDEN and 0 < place < end)
            if after != before:
                hidden.append((60 + pair, place, before))
    assert told(found) == hidden


def test_the_configured_share_is_hidden(batch):
    words = sum(list(row).index(SEP) - 1 for row in batch["token_ids"][:30])
    for share in (0.15, 0.6):
        hidden = np.mean([len(masked(batch, share, seed)["masked_id"]) for seed in range(30)]) / words
        assert hidden == pytest.approx(share, abs=0.02)


def test_the_same_seed_hides_the_same_words(batch):
    np.testing.assert_array_equal(masked(batch)["token_ids"], masked(batch)["token_ids"])
    assert told(masked(batch)) != told(masked(batch, seed=2))


def test_there_is_always_something_to_tell(batch):
    found = masked(batch, share=1e-9)
    np.testing.assert_array_equal(found["token_ids"][60:], batch["token_ids"][:30])
    assert told(found) == [(60, 0, CLS)]
