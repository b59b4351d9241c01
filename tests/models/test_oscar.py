import math
from dataclasses import replace

import numpy as np
import paddle
import pytest

from models.bert import Bert, BertShape
from models.losses.matching import match_cross_entropy, match_regression
from models.oscar import Oscar, attention_between
from tests.closeness import SINGLE, assert_close, largest
from tests.other_processors import off_the_cpu

FEATURES, VOCABULARY = 5, 20
LONGEST = 13  # rows of a pair: 8 tokens and 5 regions


def roundings(num_layers=2, hidden=12, inner=24):
    """Return how many operations a number passes through on its way from a pair's features to its logits."""
    norm = 2 * hidden + 6
    layer = 5 * hidden + inner + 2 * LONGEST + 2 * norm + 12  # products, softmax and values, norms, gelu
    return FEATURES + norm + num_layers * layer + 2 * hidden + 4


def shape_of(**changes):
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_dim": 12,
        "num_layers": 2,
        "num_heads": 3,
        "inner_dim": 24,
        "max_positions": 16,
        "region_dim": FEATURES,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "initial_deviation": 0.3,
    }
    return BertShape(**(sizes | changes))


def batch_of(pairs=4, extra_tokens=0, extra_regions=0, seed=0):
    """Return pairs of 4 to 8 tokens and 1 to 5 regions, with so much padding beyond the longest."""
    random = np.random.default_rng(seed)
    text_len, num_regions = random.integers(4, 9, pairs), random.integers(1, 6, pairs)
    places = np.arange(text_len.max() + extra_tokens)
    ids = random.integers(1, VOCABULARY, (pairs, 8))
    features = random.standard_normal((pairs, 5, FEATURES)).astype(np.float32)
    token_ids = np.zeros((pairs, len(places)), np.int64)
    regions = np.zeros((pairs, num_regions.max() + extra_regions, FEATURES), np.float32)
    for pair, (length, count) in enumerate(zip(text_len, num_regions, strict=True)):
        token_ids[pair, :length] = ids[pair, :length]
        regions[pair, :count] = features[pair, :count]
    arrays = {
        "token_ids": token_ids,
        "segment_ids": ((places >= 3) & (places < text_len[:, None])).astype(np.int64),
        "text_len": text_len,
        "regions": regions,
        "num_regions": num_regions,
    }
    return {name: paddle.to_tensor(array) for name, array in arrays.items()}


def pair_of(batch, pair):
    """Return one pair of a batch, cut to its own length."""
    length, count = batch["text_len"][pair].item(), batch["num_regions"][pair].item()
    cut = {name: tensor[pair : pair + 1] for name, tensor in batch.items()}
    for name in ("token_ids", "segment_ids"):
        cut[name] = cut[name][:, :length]
    return cut | {"regions": cut["regions"][:, :count]}


def test_shapes():
    batch = batch_of()
    model = Oscar(shape_of())
    assert model(batch)["logits"].shape == [4, 2] and model.score_pairs(batch).shape == [4]
    assert model.bert(batch).shape == [4, 12]
    rows, layout = model.bert.encode(batch)
    lengths = (batch["text_len"] + batch["num_regions"]).numpy()
    assert rows.shape == [lengths.sum(), 12]
    assert layout.pad(rows).shape == [4, lengths.max(), 12]
    text_alone = Bert(shape_of(region_dim=0))
    assert text_alone(batch).shape == [4, 12]
    assert not any(name.startswith("regions") for name, _ in text_alone.named_parameters())


@pytest.mark.parametrize("attention", ["CLR", "CR"])
def test_a_pair_does_not_depend_on_padding_or_company(attention):
    paddle.seed(0)
    model = Oscar(shape_of(), attention=attention)
    model.eval()
    batch = batch_of()
    scores, logits = model.score_pairs(batch).numpy(), model(batch)["logits"].numpy()
    assert scores.std() > 0.01
    padded = model.score_pairs(batch_of(extra_tokens=3, extra_regions=4)).numpy()
    np.testing.assert_array_equal(padded, scores)  # the very same rows are computed
    for pair in range(4):
        alone = model.score_pairs(pair_of(batch, pair)).numpy()
        # Log-odds are the difference of two logits, and may be far smaller than those.
        assert_close(alone, scores[pair : pair + 1], roundings(), largest([logits]))


def shared_batch(image_row=(0, 2, 0, 2, 2)):
    """Return pairs that share images, and partly texts, and the same pairs each with its own image."""
    batch, rows = batch_of(), paddle.to_tensor(image_row)
    texts = paddle.to_tensor([1, 1, 2, 3, 3])
    shared = {name: batch[name][texts] for name in ("token_ids", "segment_ids", "text_len")}
    images = {name: batch[name] for name in ("regions", "num_regions")}
    own = {name: tensor[rows] for name, tensor in images.items()}
    return shared | images | {"image_row": rows}, shared | own


@pytest.mark.parametrize("attention", ["CLR", "CR"])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_pairs_that_share_images_are_pairs_that_have_their_own(attention, num_layers):
    paddle.seed(0)
    model = Oscar(shape_of(num_layers=num_layers), attention=attention)
    found = []
    for batch in shared_batch():
        model.clear_gradients()
        logits = model(batch)["logits"]
        match_cross_entropy(logits, paddle.to_tensor([1, 0, 0, 1, 0])).backward()
        found.append([logits.numpy(), *(parameter.grad.numpy() for parameter in model.parameters())])
    assert found[0][0].std() > 0.01
    for shared, own in zip(*found, strict=True):
        assert_close(shared, own, 2 * roundings(num_layers) + 5 * LONGEST, largest(found[1]))


def test_dropout_sets_pairs_of_the_same_image_and_text_apart():
    paddle.seed(0)
    bert, batch = Bert(shape_of(dropout=0.3)), shared_batch()[0]
    for layer in bert.layers:
        layer.attended_norm.dropout = layer.norm.dropout = 0.0  # leaving that of what the rows begin as
    pooled = bert(batch).numpy()
    assert np.abs(pooled[3] - pooled[4]).max() > 0.01
    bert.eval()
    pooled = bert(batch).numpy()
    assert_close(pooled[3], pooled[4], roundings())


def test_order_of_words_matters_and_order_of_regions_does_not():
    paddle.seed(0)
    model = Oscar(shape_of())
    batch = batch_of()
    pair = pair_of(batch, int(np.argmax(batch["num_regions"])))
    assert pair["num_regions"].item() > 1
    score, logits = model.score_pairs(pair).numpy(), model(pair)["logits"].numpy()
    turned = model.score_pairs(pair | {"regions": pair["regions"].flip(1)}).numpy()
    assert_close(turned, score, roundings(), largest([logits]))
    assert abs(model.score_pairs(pair | {"token_ids": pair["token_ids"].flip(1)}).numpy() - score) > 1e-4


def test_attention_types():
    assert attention_between("CLR") is None
    np.testing.assert_array_equal(attention_between("CL"), [[1, 1, 0], [1, 1, 0], [0, 0, 1]])
    np.testing.assert_array_equal(attention_between("LR"), [[1, 0, 0], [0, 1, 1], [0, 1, 1]])
    with pytest.raises(ValueError, match=r"expected one of \['CL', 'CLR', 'CR', 'LR'\], got 'RC'"):
        Oscar(shape_of(), attention="RC")


def test_the_mlp_head_and_the_single_value():
    paddle.seed(0)
    model = Oscar(shape_of(), num_labels=1, classifier="mlp", classifier_scale=3)
    batch = batch_of()
    logits = model(batch)["logits"]
    weights = {name: value.numpy() for name, value in model.classifier.named_parameters()}
    hidden = np.maximum(0, model.bert(batch).numpy() @ weights["0.weight"] + weights["0.bias"])
    assert hidden.shape == (4, 36)
    expected = hidden @ weights["2.weight"] + weights["2.bias"]
    scale = np.abs(hidden) @ np.abs(weights["2.weight"]) + np.abs(weights["2.bias"])
    assert_close(logits.numpy(), expected, 12 + 36 + 2, scale)
    np.testing.assert_array_equal(model.score_pairs(batch).numpy(), logits.numpy()[:, 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classifier": "deep"}, "classifier: expected one of"),
        ({"num_labels": 3}, "num_labels: expected 1 or 2, got 3"),
        ({"shape": shape_of(num_heads=5)}, "num_heads divides, got 12 and 5"),
    ],
)
def test_impossible_models_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Oscar(**{"shape": shape_of()} | options)


def test_a_text_with_more_tokens_than_positions_is_refused():
    with pytest.raises(ValueError, match="at most 4 tokens, the positions of this BERT, got"):
        Oscar(shape_of(max_positions=4))(batch_of())


def test_pooling_alone_has_the_gradients_of_all_rows():
    paddle.seed(0)
    model, batch = Bert(shape_of()), batch_of()
    gradients = []
    for all_rows in (False, True):
        model.clear_gradients()
        if all_rows:
            rows, layout = model.encode(batch)
            pooled = model.pool(rows.gather(layout.first))
        else:
            pooled = model(batch)
        (pooled**2).sum().backward()
        gradients.append({name: parameter.grad.numpy() for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        size = largest(gradients[1].values())
        assert_close(gradient, gradients[1][name], 2 * roundings() + 4 * LONGEST, size, err_msg=name)


def test_the_ways_of_cpu_and_gpu_agree(monkeypatch):
    """Off the CPU Paddle's own layers are used, and its attention over padded batches."""
    paddle.seed(0)
    model, batch = Oscar(shape_of(), attention="CR"), batch_of()
    found = []
    for _ in range(2):
        model.clear_gradients()
        logits = model(batch)["logits"]
        match_cross_entropy(logits, paddle.to_tensor([1, 0, 0, 1])).backward()
        found.append([logits.numpy(), *(parameter.grad.numpy() for parameter in model.parameters())])
        off_the_cpu(monkeypatch)
    for ours, paddles in zip(*found, strict=True):
        assert_close(ours, paddles, 2 * roundings() + 4 * LONGEST, largest(found[1]))


def test_gradients_by_differences():
    paddle.seed(1)
    model, batch = Oscar(shape_of(), attention="CR"), batch_of()
    match = paddle.to_tensor([1, 0, 0, 1])
    match_cross_entropy(model(batch)["logits"], match).backward()
    random = np.random.default_rng(0)
    for name, parameter in model.named_parameters():
        start, step = parameter.numpy(), 1e-2
        direction = random.standard_normal(start.shape).astype(np.float32)
        direction /= np.linalg.norm(direction)
        losses = []
        for sign in (1, -1):
            parameter.set_value(start + sign * step * direction)
            losses.append(float(match_cross_entropy(model(batch)["logits"], match)))
        parameter.set_value(start)
        slope = (losses[0] - losses[1]) / (2 * step)
        found = float((parameter.grad.numpy() * direction).sum())
        np.testing.assert_allclose(found, slope, rtol=2e-2, atol=2e-4, err_msg=name)


@pytest.mark.parametrize(("num_labels", "loss"), [(2, match_cross_entropy), (1, match_regression)])
def test_eight_pairs_are_learnt(num_labels, loss):
    paddle.seed(0)
    dropouts = {"dropout": 0.1, "attention_dropout": 0.1}
    model, batch = Oscar(shape_of(initial_deviation=0.1, **dropouts), num_labels), batch_of(8)
    match = paddle.to_tensor([1, 0, 1, 0, 0, 1, 1, 0])
    optimizer = paddle.optimizer.Adam(3e-3, parameters=model.parameters())
    for _ in range(80):
        loss(model(batch)["logits"], match).backward()
        optimizer.step()
        optimizer.clear_grad()
    model.eval()
    scores = model.score_pairs(batch).numpy()
    if num_labels == 2:
        scores = 1 / (1 + np.exp(-scores))  # from log-odds to a probability
    assert scores[match.numpy() == 1].min() > 0.8 and scores[match.numpy() == 0].max() < 0.2


def test_a_score_is_the_log_odds_of_a_match():
    paddle.seed(0)
    model, batch = Oscar(shape_of(initial_deviation=0.3)), batch_of()
    logits = model(batch)["logits"].numpy()
    match = paddle.nn.functional.softmax(paddle.to_tensor(logits), axis=1)[:, 1].numpy()
    # The logarithm makes of an error of p one of 1 / (p (1 - p)) as much.
    scale = largest([logits]) + 1 / (match * (1 - match))
    assert_close(model.score_pairs(batch).numpy(), np.log(match / (1 - match)), 8, scale)


def test_positions_may_start_as_waves_of_the_initial_deviation():
    shape = BertShape(vocab_size=9, hidden_dim=12, num_layers=1, num_heads=2, inner_dim=8, max_positions=40)
    start = Bert(
        replace(shape, position_waves=True, initial_deviation=0.5)
    ).embeddings.positions.weight.numpy()
    for position in range(40):
        for pair in range(6):
            angle = position * 40 ** -(pair / 6)
            expected = [math.sqrt(2) * 0.5 * wave(angle) for wave in (math.sin, math.cos)]
            assert_close(start[position, 2 * pair : 2 * pair + 2], expected, 2, 0.5 * math.sqrt(2))
    likeness = start @ start.T
    assert (likeness.argsort(axis=1)[:, -1] == np.arange(40)).all()
    assert (np.abs(likeness.argsort(axis=1)[:, -2] - np.arange(40)) == 1).all(), "neighbours are most alike"


def test_hidden_words_are_guessed_from_their_own_rows():
    paddle.seed(0)
    model, batch = Oscar(shape_of(), guesses_words=True), batch_of()
    asked = {"masked_pair": [1, 2, 2], "masked_place": [1, 1, 2], "match": [1]}
    outputs = model(batch | {name: paddle.to_tensor(places) for name, places in asked.items()})
    rows, sequences = model.bert.encode(batch)
    words = model.bert.embeddings.words.weight
    for number, (pair, place) in enumerate(zip(asked["masked_pair"], asked["masked_place"], strict=True)):
        row = rows[int(sequences.ends[pair]) + place].unsqueeze(0)
        hidden = model.words.norm(paddle.nn.functional.gelu(model.words.fc(row)))
        expected = [float((hidden * word).sum()) for word in words]
        scale = float((hidden.abs() * words.abs()).sum(axis=1).max())
        assert_close(outputs["word_logits"][number].numpy(), expected, roundings(), scale, unit=2 * SINGLE)
    assert_close(outputs["logits"].numpy(), model(batch)["logits"][:1].numpy(), roundings())
    assert "word_logits" not in model(batch)
