"""Words are hidden in captions alone, and what was hidden is told where the pair is right."""

import numpy as np
import pytest

from datasets.masked_words import mask_words

CLS, SEP, HIDDEN = 2, 3, 1


@pytest.fixture
def batch() -> dict[str, np.ndarray]:
    """Return `[CLS] caption [SEP] tags [SEP]` of 60 pairs, the first 30 right."""
    random = np.random.default_rng(0)
    captions, tags = random.integers(1, 9, 60), random.integers(0, 4, 60)
    lengths = captions + 2 + np.where(tags, tags + 1, 0)
    tokens, segments = np.zeros((60, lengths.max()), np.int64), np.zeros((60, lengths.max()), np.int64)
    for pair, (caption, count, length) in enumerate(zip(captions, tags, lengths, strict=True)):
        words = random.integers(4, 100, caption + count)
        row = [CLS, *words[:caption], SEP, *words[caption:], *([SEP] if count else [])]
        tokens[pair, :length], segments[pair, caption + 2 : length] = row, 1
    match = np.repeat([1, 0], 30)
    return {"token_ids": tokens, "segment_ids": segments, "text_len": lengths, "match": match}


def masked(batch: dict[str, np.ndarray], share: float = 0.5, seed: int = 1) -> dict[str, np.ndarray]:
    return mask_words(batch, share, HIDDEN, np.random.default_rng(seed))


def test_only_words_of_captions_are_hidden_and_those_of_right_pairs_are_told(batch):
    found, told = masked(batch), []
    for pair, (old, new) in enumerate(zip(batch["token_ids"], found["token_ids"], strict=True)):
        end = list(old).index(SEP)
        for place, (before, after) in enumerate(zip(old, new, strict=True)):
            assert after == before or (after == HIDDEN and 0 < place < end)
            if after != before and batch["match"][pair]:
                told.append((pair, place, before))
    assert [
        *zip(*(found[f"masked_{name}"].tolist() for name in ("pair", "place", "id")), strict=True)
    ] == told
    assert found["text_len"] is batch["text_len"] and (batch["token_ids"] != HIDDEN).all()


def test_right_and_wrong_pairs_lose_the_configured_share(batch):
    words = sum(list(row).index(SEP) - 1 for row in batch["token_ids"])
    for share in (0.15, 0.6):
        hidden = np.mean([(masked(batch, share, s)["token_ids"] == HIDDEN).sum() for s in range(30)]) / words
        assert hidden == pytest.approx(share, abs=0.02)
    halves = (masked(batch, 0.9)["token_ids"] == HIDDEN).reshape(2, 30, -1).sum(axis=(1, 2))
    assert min(halves) > 0


def test_the_same_seed_hides_the_same_words(batch):
    np.testing.assert_array_equal(masked(batch)["token_ids"], masked(batch)["token_ids"])
    assert (masked(batch)["token_ids"] != masked(batch, seed=2)["token_ids"]).any()


def test_there_is_always_something_to_tell(batch):
    found = masked(batch, share=1e-9)
    np.testing.assert_array_equal(found["token_ids"], batch["token_ids"])
    assert [found[f"masked_{name}"].tolist() for name in ("pair", "place", "id")] == [[0], [0], [CLS]]
