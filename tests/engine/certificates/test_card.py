"""The card of a model says what was measured, with intervals, and what the numbers do not show."""

from engine.certificates.card import model_card

CONTENT = {
    "metrics": {"i2t_r1": 5.0, "i2t_medr": 9.0, "rsum": 104.0},
    "certificate": {
        "over": "images",
        "resamples": 100,
        "seed": 7,
        "metrics": {
            "i2t_r1": {
                "low": 0.1,
                "high": 6.1,
                "method": "bca",
                "tie": [5.0, 7.5],
                "tied_queries": 4,
                "chance": 0.5,
            },
            "rsum": {
                "low": 99.0,
                "high": 110.0,
                "method": "bca",
                "tie": [104.0, 104.0],
                "tied_queries": 0,
                "chance": 3.0,
            },
        },
    },
    "protocol": {
        "split": "test",
        "images": 20,
        "captions": 100,
        "distinct_sentences": 60,
        "folds": 1,
        "tie_rule": "against",
        "relevance": "image id",
        "left_out": {"images": 2, "captions": 0},
    },
    "checkpoint": {"model": "vsepp", "step": 9, "sha256": "ab"},
    "versions": {"numpy": "2"},
    "config": {
        "DATASET": {"NAME": "toy", "FORMAT": "csv", "TRAIN": "train", "DEV": "dev"},
        "MONITOR": {"BEST_METRIC": "rsum"},
        "MISC": {"SEED": 7},
        "MODEL": {"EMBED_DIM": 8, "CNN": "", "NUM_LAYERS": 1},
        "LOSS": {"NAME": "hinge"},
    },
}


def test_numbers_with_intervals_and_their_limits():
    card = model_card(CONTENT)
    assert "# vsepp on toy" in card and "SHA-256 `ab`" in card
    assert "| image to text R@1 | 5.0 ± 3.0 (tie 5.0–7.5, chance 0.5) |" in card and "medr" not in card
    assert "- Not distinguishable from chance: image to text R@1." in card
    assert "- Decided by ties to a point or more: image to text R@1." in card
    assert "- Only 60 of the 100 captions are different sentences." in card
    assert "- Left out, without a right one: 2 images." in card


def test_without_intervals_the_card_says_so():
    card = model_card({**CONTENT, "certificate": {}})
    assert "| image to text R@1 | 5.0 |" in card and "No intervals were computed" in card


def test_the_card_says_that_a_bank_normalised_the_scores():
    bank = {"split": "train", "images": 90, "sentences": 300, "temperature": 0.07}
    assert "bank" not in model_card(CONTENT)
    card = model_card({**CONTENT, "protocol": {**CONTENT["protocol"], "query_bank": bank}})
    assert "right ones by image id; scores normalised by a bank of train; ties against" in card
