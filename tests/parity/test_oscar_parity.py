"""Oscar computes what the original computes: microsoft/Oscar's retrieval, run on random weights.

The original pads texts to 24 tokens and images to 10 regions; ours leaves the padding out, so hidden states
are compared where there is a token or a region.
"""

from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle.nn import ClipGradByGlobalNorm

from engine.weights.bert_names import from_original, original_names
from models.bert import BertShape
from models.losses.matching import match_cross_entropy
from models.oscar import Oscar
from solvers.bert_adamw import BertAdamW
from tests.closeness import adam_may_part

TEXT, REGIONS = 24, 10
SHAPE = BertShape(
    vocab_size=74,
    hidden_dim=64,
    num_layers=2,
    num_heads=4,
    inner_dim=128,
    max_positions=64,
    region_dim=54,
    dropout=0.0,
    attention_dropout=0.0,
)


def batch_of(ids: np.ndarray, mask: np.ndarray, segments: np.ndarray, features: np.ndarray) -> dict:
    """Return our batch of the original's arrays, padded to its longest text and its most regions."""
    text_len, num_regions = mask[:, :TEXT].sum(axis=1), mask[:, TEXT:].sum(axis=1)
    arrays = {
        "token_ids": ids[:, : text_len.max()],
        "segment_ids": segments[:, : text_len.max()],
        "text_len": text_len,
        "regions": features[:, : num_regions.max()],
        "num_regions": num_regions,
    }
    return {name: paddle.to_tensor(array) for name, array in arrays.items()}


def cross_pairs(golden: dict[str, np.ndarray], count: int) -> dict:
    names = ("input_ids", "attention_mask", "segment_ids", "img_feats")
    return batch_of(*(golden[name][:count] for name in names))


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, np.ndarray]:
    return dict(np.load(shared / "fixtures" / "oscar" / "oscar.npz"))


@pytest.fixture(scope="module")
def weights(shared: Path) -> dict[str, np.ndarray]:
    return dict(np.load(shared / "fixtures" / "oscar" / "oscar.weights.npz"))


def oscar_of(weights: dict[str, np.ndarray], attention: str = "CLR") -> Oscar:
    model = Oscar(SHAPE, attention=attention)
    used = []
    for name, parameter in model.named_parameters():
        parameter.set_value(from_original(name, weights))
        used += original_names(name)
    assert sorted(used) == sorted(weights)
    model.eval()
    return model


def test_logits_loss_and_probabilities(golden, weights) -> None:
    model, batch = oscar_of(weights), cross_pairs(golden, 80)
    logits = model(batch)["logits"]
    np.testing.assert_allclose(logits.numpy(), golden["logits"], atol=1e-5)
    loss = match_cross_entropy(logits, paddle.to_tensor(golden["labels"]))
    np.testing.assert_allclose(loss.numpy(), golden["loss"], rtol=1e-5)
    for mode in (paddle.enable_grad, paddle.no_grad):
        with mode():
            log_odds = model.score_pairs(batch).numpy()
            np.testing.assert_allclose(1 / (1 + np.exp(-log_odds)), golden["probs"], atol=1e-5)


def test_hidden_states_and_pooled(golden, weights) -> None:
    bert = oscar_of(weights).bert
    np.testing.assert_allclose(bert(cross_pairs(golden, 80)).numpy(), golden["pooled"], atol=1e-5)
    rows, sequences = bert.encode(cross_pairs(golden, 8))
    real = golden["attention_mask"][:8].astype(bool)
    np.testing.assert_allclose(rows.numpy(), golden["sequence_first8"][real], atol=1e-5)
    pooled = bert.pool(rows.gather(sequences.first))  # the last layer in full gives what first rows alone do
    np.testing.assert_allclose(pooled.numpy(), golden["pooled"][:8], atol=1e-5)


@pytest.mark.parametrize("attention", ["CL", "CR", "LR"])
def test_attention_between_some_parts_alone(golden, weights, attention) -> None:
    model, batch = oscar_of(weights, attention), cross_pairs(golden, 8)
    expected = golden[f"logits_{attention}_first8"]
    for mode in (paddle.enable_grad, paddle.no_grad):
        with mode():
            np.testing.assert_allclose(model(batch)["logits"].numpy(), expected, atol=1e-5)
    assert np.abs(expected - golden["logits"][:8]).max() > 1e-3, "the mask matters"
    _, sequences = model.bert.encode(batch, model.attends)
    places = np.flatnonzero(golden["attention_mask"][0])
    seen = golden[f"mask_{attention}_first8"][0][np.ix_(places, places)].astype(bool)
    np.testing.assert_array_equal(sequences.mask_of(0, len(places)) == 0, seen)


def test_captions_without_tags(golden, weights) -> None:
    """The original's tensors without tags lack logits; they are the captions' part of those with tags."""
    model = oscar_of(weights)
    plain = batch_of(
        *(golden[f"noTags_{name}"] for name in ("input_ids", "mask", "segment")), golden["img_feats"][:8]
    )
    tagged = cross_pairs(golden, 8)
    assert not plain["segment_ids"].any()
    captions = (tagged["segment_ids"] == 0) & (tagged["token_ids"] != 0)
    np.testing.assert_array_equal(plain["text_len"].numpy(), captions.sum(axis=1).numpy())
    # Where caption and regions see no tags, and are not changed by them, tags can as well be left out.
    without = oscar_of(weights, "CR")(tagged)["logits"]
    np.testing.assert_allclose(model(plain)["logits"].numpy(), without.numpy(), atol=1e-5)


def training_batch(golden: dict[str, np.ndarray], number: int) -> tuple[dict, paddle.Tensor]:
    names = ("input_ids", "attention_mask", "token_type_ids", "img_feats")
    arrays = [golden[f"train_b{number}_{name}"] for name in names]
    return batch_of(*arrays), paddle.to_tensor(golden[f"train_b{number}_labels"])


def part_of(golden: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): value for name, value in golden.items() if name.startswith(prefix)}


def rounding_of(gradient: np.ndarray) -> float:
    """Return by how much golden gradients and ours may differ."""
    return 1e-6 * max(1, np.abs(gradient).max())


def test_gradients_and_their_norm(golden, weights) -> None:
    model = oscar_of(weights)
    batch, match = training_batch(golden, 0)
    match_cross_entropy(model(batch)["logits"], match).backward()
    squares = 0.0
    for name, parameter in model.named_parameters():
        gradient, expected = parameter.grad.numpy(), from_original(name, part_of(golden, "grad0."))
        squares += float((gradient.astype(np.float64) ** 2).sum())
        atol = rounding_of(expected)
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=atol, err_msg=name)
    np.testing.assert_allclose(squares**0.5, golden["train_grad_norms"][0], rtol=1e-5)


def test_four_training_steps(golden, weights) -> None:
    model = oscar_of(weights)
    decayed = {parameter.name for name, parameter in model.named_parameters() if is_decayed(name)}
    optimizer = BertAdamW(
        learning_rate=1e-3,
        beta1=0.9,
        beta2=0.999,
        epsilon=1e-8,
        parameters=model.parameters(),
        weight_decay=0.05,
        apply_decay_param_fun=decayed.__contains__,
        grad_clip=ClipGradByGlobalNorm(1.0),
    )
    losses = []
    for number, rate in enumerate(golden["train_lrs_used"]):
        batch, match = training_batch(golden, number)
        loss = match_cross_entropy(model(batch)["logits"], match)
        loss.backward()
        optimizer.set_lr(float(rate))
        optimizer.step()
        optimizer.clear_grad()
        losses.append(float(loss))
    np.testing.assert_allclose(losses, golden["train_losses"], rtol=1e-4)
    first, after = part_of(golden, "grad0."), part_of(golden, "after4.")
    for name, parameter in model.named_parameters():
        gradient, expected = from_original(name, first), from_original(name, after)
        atol = 1e-6 + adam_may_part(gradient, rounding_of(gradient), golden["train_lrs_used"])
        np.testing.assert_array_less(np.abs(parameter.numpy() - expected), atol, name)


def is_decayed(name: str) -> bool:
    """Tell whether the original decays our parameter: all but biases and the weights of norms."""
    return not any(
        part in original for original in original_names(name) for part in ("bias", "LayerNorm.weight")
    )
