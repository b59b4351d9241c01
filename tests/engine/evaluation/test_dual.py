"""Evaluation: everything is encoded once, and whoever has the scores finds the same numbers."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle
import pytest

from config.errors import UserError
from datasets.relevance import own_captions
from engine.evaluation.dual import encode, encode_captions, encode_images, evaluate, order_by_words
from engine.evaluation.protocol import evaluation_mode
from engine.evaluation.result import format_table, versions, write_result_json
from tests.closeness import assert_close, largest
from tests.thread_job import ThreadJob

PAGE = Path(__file__).resolve().parents[3] / "docs" / "evaluation.md"
WORDS, WIDTH, FEATURES = 30, 6, 5


class TinyModel(paddle.nn.Layer):
    """A dual encoder that has a layer which evaluation must switch off, and counts what it encodes."""

    def __init__(self, measure: str = "cosine"):
        super().__init__()
        self.measure = measure
        paddle.seed(0)
        self.image = paddle.nn.Linear(FEATURES, WIDTH)
        self.words = paddle.nn.Embedding(WORDS, WIDTH)
        self.dropout = paddle.nn.Dropout(0.5)
        self.encoded_images, self.encoded_texts, self.padding = 0, 0, 0

    def encode_image(self, batch):
        assert not paddle.is_grad_enabled()
        self.encoded_images += len(batch["features"])
        return self.dropout(self.image(batch["features"]))

    def encode_text(self, batch):
        assert not paddle.is_grad_enabled()
        tokens, lengths = batch["token_ids"], batch["text_len"]
        self.encoded_texts += len(tokens)
        real = paddle.arange(tokens.shape[1]) < lengths.unsqueeze(1)
        self.padding += int((~real).sum())
        return self.dropout((self.words(tokens) * real.unsqueeze(2).astype("float32")).sum(axis=1))


class TinyDataset:
    """Images with 1 to 5 captions each, some of which are one sentence."""

    def __init__(self, images: int = 21, seed: int = 0):
        random = np.random.default_rng(seed)
        self.features = random.standard_normal((images, FEATURES)).astype(np.float32)
        self.image_ids = [f"{number:03}.jpg" for number in random.permutation(images)]
        self.caption_image = random.permutation(np.repeat(np.arange(images), random.integers(1, 6, images)))
        sentences = [tuple(random.integers(1, WORDS, random.integers(3, 12))) for _ in self.caption_image]
        sentences[3::4] = sentences[: len(sentences[3::4])]
        self.sentences = sentences
        self.captions = [" ".join(map(str, sentence)) for sentence in sentences]
        self.lengths = np.array([len(sentence) for sentence in sentences])
        distinct = {sentence: number for number, sentence in enumerate(dict.fromkeys(sentences))}
        self.sentence_ids = np.array([distinct[sentence] for sentence in sentences])
        self.num_images, self.num_captions = images, len(sentences)

    @property
    def relevance(self):
        return own_captions(self.caption_image, self.num_images)

    def image_batch(self, images):
        return {"features": self.features[images]}

    def text_batch(self, captions):
        token_ids = np.zeros((len(captions), self.lengths[captions].max()), np.int64)
        for row, caption in enumerate(captions):
            token_ids[row, : self.lengths[caption]] = self.sentences[caption]
        return {"token_ids": token_ids, "text_len": self.lengths[captions]}


@pytest.fixture(scope="module")
def dataset():
    return TinyDataset()


def metrics_by_loops(scores, image_ids, caption_image_ids):
    """Recompute every metric from the saved arrays, one comparison at a time, ties against the model."""
    metrics = {}
    for direction, rows, queries, gallery in (
        ("i2t", scores, image_ids, caption_image_ids),
        ("t2i", scores.T, caption_image_ids, image_ids),
    ):
        found = []
        for row, query in zip(rows, queries, strict=True):
            best = max(score for score, item in zip(row, gallery, strict=True) if item == query)
            found.append(
                sum(score >= best for score, item in zip(row, gallery, strict=True) if item != query)
            )
        for k in (1, 5, 10):
            metrics[f"{direction}_r{k}"] = 100 * sum(rank < k for rank in found) / len(found)
        metrics[f"{direction}_medr"] = int(np.median(found)) + 1
        metrics[f"{direction}_meanr"] = sum(found) / len(found) + 1
    metrics["rsum"] = sum(value for name, value in metrics.items() if "_r" in name)
    metrics["mean_recall"] = metrics["rsum"] / 6
    return metrics


@pytest.mark.parametrize("measure", ["cosine", "order"])
def test_every_metric_can_be_recomputed_from_the_saved_scores(dataset, tmp_path, measure):
    path = tmp_path / "scores.npz"
    result = evaluate(TinyModel(measure), dataset, "test", batch_size=8, block_size=4, scores_path=path)
    saved = np.load(path)
    assert saved["scores"].shape == (dataset.num_images, dataset.num_captions)
    assert saved["image_ids"].tolist() == dataset.image_ids
    assert saved["caption_image_ids"].tolist() == [
        dataset.image_ids[image] for image in dataset.caption_image
    ]
    expected = metrics_by_loops(saved["scores"], saved["image_ids"], saved["caption_image_ids"])
    assert result.metrics == pytest.approx(expected, rel=1e-12)


def test_the_documented_snippet_recomputes_the_result(dataset, tmp_path):
    result = evaluate(TinyModel(), dataset, "test", scores_path=tmp_path / "scores.npz")
    snippet = next(
        code for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "np.load" in code
    )
    (tmp_path / "recompute.py").write_text(snippet)
    command = [sys.executable, "recompute.py"]
    printed = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for direction, line in zip(("i2t", "t2i"), printed, strict=True):
        expected = [result.metrics[f"{direction}_{name}"] for name in ("r1", "r5", "r10", "medr", "meanr")]
        assert line.split()[0] == direction
        assert [float(number) for number in line.split()[1:]] == pytest.approx(expected, rel=1e-12)


def test_folds_are_slices_of_the_images_in_order_and_metrics_their_mean(dataset, tmp_path):
    path = tmp_path / "scores.npz"
    result = evaluate(TinyModel(), dataset, "test", folds=5, block_size=4, scores_path=path)
    saved = np.load(path)
    starts = [0, 5, 9, 13, 17, 21]  # 21 images: one slice of five, four of four
    folds = []
    for start, end in zip(starts, starts[1:], strict=False):
        captions = np.flatnonzero((dataset.caption_image >= start) & (dataset.caption_image < end))
        scores, caption_ids = saved["scores"][start:end][:, captions], saved["caption_image_ids"][captions]
        folds.append(metrics_by_loops(scores, saved["image_ids"][start:end], caption_ids))
    assert result.protocol["fold_images"] == [5, 4, 4, 4, 4]
    assert sum(result.protocol["fold_captions"]) == dataset.num_captions
    for found, expected in zip(result.folds, folds, strict=True):
        assert found == pytest.approx(expected, rel=1e-12)
    mean = {name: sum(fold[name] for fold in folds) / 5 for name in folds[0]}
    assert result.metrics == pytest.approx(mean, rel=1e-12)


def test_blocks_and_saving_do_not_change_the_result(dataset, tmp_path):
    model = TinyModel()
    whole = evaluate(model, dataset, "test", batch_size=1000)
    saved = evaluate(model, dataset, "test", batch_size=1000, scores_path=tmp_path / "scores.npz")
    assert saved.metrics == whole.metrics
    assert saved.i2t_ranks.tolist() == whole.i2t_ranks.tolist()
    assert evaluate(model, dataset, "test", batch_size=1000, block_size=5).metrics == whole.metrics


@pytest.mark.parametrize("device", ["cpu", "gpu:0"])
def test_each_image_and_each_distinct_sentence_is_encoded_once(dataset, device, monkeypatch):
    monkeypatch.setattr(paddle.device, "get_device", lambda: device)
    model = TinyModel()
    image_emb = encode_images(model, dataset, batch_size=4)
    text_emb, sentence = encode_captions(model, dataset, batch_size=4)
    assert model.encoded_images == len(image_emb) == dataset.num_images
    assert model.encoded_texts == len(text_emb) == len(set(dataset.sentences)) < dataset.num_captions
    if device != "cpu":
        # sorted by length, a batch pads its rows from its shortest to its longest, and no length twice
        assert model.padding <= (4 - 1) * (max(dataset.lengths) - min(dataset.lengths))
    for caption, tokens in enumerate(dataset.sentences):
        alone = model.words.weight.numpy()[list(tokens)].sum(axis=0)
        scale = largest([model.words.weight]) * len(tokens)
        assert_close(text_emb[sentence[caption]], alone, 2 * len(tokens), scale)


@pytest.mark.parametrize("processes", [2, 4, 9])
def test_processes_share_the_batches_of_one_and_have_its_result_to_the_last_digit(
    dataset, processes, monkeypatch, tmp_path
):
    models = [TinyModel() for _ in range(processes)]
    whole = encode(TinyModel(), dataset, batch_size=4)
    expected = evaluate(TinyModel(), dataset, "test", folds=2, batch_size=4, block_size=5)

    def work(number: int):
        found = encode(models[number], dataset, batch_size=4, shared=tmp_path)
        settings = {"folds": 2, "batch_size": 4, "block_size": 5, "shared": tmp_path}
        return found, evaluate(models[number], dataset, "test", **settings)

    for found, result in ThreadJob(processes, monkeypatch).run(work):
        for name in ("image", "text", "sentence"):
            np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
        assert (result.metrics, result.folds, result.protocol) == (
            expected.metrics,
            expected.folds,
            expected.protocol,
        )
    assert sum(model.encoded_images for model in models) == 2 * dataset.num_images
    assert sum(model.encoded_texts for model in models) == 2 * len(set(dataset.sentences))
    assert not list(tmp_path.iterdir())


def test_captions_that_begin_alike_become_neighbours(dataset):
    captions = np.arange(dataset.num_captions)[::-1]
    ordered = [dataset.sentences[captions[place]] for place in order_by_words(dataset, captions)]
    assert ordered == sorted(dataset.sentences)


def test_every_layer_returns_to_the_mode_it_was_in(dataset):
    model = TinyModel()
    model.train()
    model.image.eval()  # a part that is frozen stays so
    evaluate(model, dataset, "dev")
    assert model.training and model.dropout.training and not model.image.training
    with pytest.raises(RuntimeError), evaluation_mode(model):
        assert not model.dropout.training
        raise RuntimeError
    assert model.dropout.training


def test_progress_is_told_stage_by_stage_and_may_end_the_evaluation(dataset, tmp_path):
    seen = {}
    evaluate(
        TinyModel(), dataset, "dev", batch_size=5, progress=lambda stage, *step: seen.update({stage: step})
    )
    assert list(seen) == ["encode images", "encode captions", "rank"]
    assert all(done == total for done, total in seen.values())

    def interrupt(stage, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(TinyModel(), dataset, "dev", scores_path=tmp_path / "scores.npz", progress=interrupt)
    assert not list(tmp_path.iterdir())


def test_sentences_of_several_images_are_told_where_a_caption_is_right_for_its_own_alone(dataset):
    images_of = {}
    for sentence, image in zip(dataset.sentences, dataset.caption_image, strict=True):
        images_of.setdefault(sentence, set()).add(image)
    shared = sum(len(images) > 1 for images in images_of.values())
    result = evaluate(TinyModel(), dataset, "test")
    assert result.shared_sentences == shared > 0
    assert f"{shared} sentences describe several images" in format_table(result)

    class OtherRule(TinyDataset):
        @property
        def relevance(self):
            return replace(super().relevance, rule="pairs.json")

    assert "several images" not in format_table(evaluate(TinyModel(), OtherRule(), "test"))


def test_protocol_says_how_it_was_counted(dataset):
    result = evaluate(TinyModel("order"), dataset, "test", tie_rule="average")
    assert result.protocol == {
        "split": "test",
        "images": 21,
        "captions": dataset.num_captions,
        "distinct_sentences": len(set(dataset.sentences)),
        "relevance": "image id",
        "left_out": {"images": 0, "captions": 0},
        "folds": 1,
        "fold_images": [21],
        "fold_captions": [dataset.num_captions],
        "tie_rule": "average",
        "tie_rule_text": "rank = mean of the ranks with ties counted against and in favour of the model",
        "measure": "order",
    }
    assert result.folds == []
    assert len(result.i2t_ranks) == 21 and len(result.t2i_ranks) == dataset.num_captions


@pytest.mark.parametrize("folds", [1, 3])
def test_table_shows_every_metric_in_its_column_with_sizes_and_the_tie_rule(dataset, folds):
    result = evaluate(TinyModel(), dataset, "test", folds=folds)
    table = format_table(result)
    assert "test: 21 images" in table and "cosine similarity" in table
    assert ("mean of 3 folds" in table) == (folds == 3)
    assert "ties against: rank = number of irrelevant items that score at least as high as the best" in table
    _, _, heading, *rows, _, summary, _, _ = table.splitlines()
    assert heading.split() == ["R@1", "R@5", "R@10", "median", "mean"]
    for row, title, direction in zip(rows, ("image to text", "text to image"), ("i2t", "t2i"), strict=True):
        shown = [float(number) for number in row.removeprefix(title).split()]
        metrics = [result.metrics[f"{direction}_{name}"] for name in ("r1", "r5", "r10", "medr", "meanr")]
        assert shown == pytest.approx(metrics, abs=0.051) and len({f"{number:.1f}" for number in shown}) > 3
    recalls = [result.metrics[f"{direction}_r{k}"] for direction in ("i2t", "t2i") for k in (1, 5, 10)]
    assert summary.startswith(f"rsum {sum(recalls):.2f}, mean recall {sum(recalls) / 6:.2f} ")


def test_result_file_holds_metrics_protocol_checkpoint_config_and_versions(dataset, tmp_path):
    result = evaluate(TinyModel(), dataset, "test", folds=2)
    write_result_json(
        tmp_path / "result.json",
        result,
        {"sha256": "ab"},
        {"EVAL": {"FOLDS": 2}},
        versions(),
        {"swapped": {"place": 60.0}},
    )
    content = json.loads((tmp_path / "result.json").read_text())
    assert content["metrics"] == result.metrics
    assert content["protocol"] == result.protocol
    assert content["swapped"] == {"place": 60.0}
    assert len(content["folds"]) == 2
    assert content["checkpoint"] == {"sha256": "ab"} and content["config"] == {"EVAL": {"FOLDS": 2}}
    assert {"python", "paddle", "numpy"} <= set(content["versions"])


def test_versions_do_without_git(monkeypatch, tmp_path):
    monkeypatch.setattr("engine.evaluation.result._ROOT", tmp_path)
    assert set(versions()) == {"python", "paddle", "numpy"}
    (tmp_path / ".git").mkdir()
    assert set(versions()) == {"python", "paddle", "numpy"}
    monkeypatch.setenv("PATH", "")
    assert set(versions()) == {"python", "paddle", "numpy"}


def test_fewer_images_than_folds_is_the_users_mistake(dataset):
    with pytest.raises(
        UserError, match=r"EVAL.FOLDS: expected at most one fold per image \(21 in test\), got 22"
    ):
        evaluate(TinyModel(), dataset, "test", folds=22)


def test_an_image_without_a_caption_is_named():
    dataset = TinyDataset()
    dataset.caption_image = np.where(dataset.caption_image == 4, 3, dataset.caption_image)
    with pytest.raises(UserError, match=rf"image {dataset.image_ids[4]} \(row 5\) has none"):
        evaluate(TinyModel(), dataset, "test")


def test_broken_weights_are_named_by_what_they_encode(dataset):
    model = TinyModel()
    weight = model.words.weight.numpy()
    weight[dataset.sentences[7][0]] = np.nan
    model.words.weight.set_value(weight)
    with pytest.raises(
        UserError, match=r"NaN or infinity for caption \d+ \('[\d ]+'\): the weights are broken"
    ):
        evaluate(model, dataset, "test")
    model.image.bias.set_value(np.full(WIDTH, np.inf, np.float32))
    with pytest.raises(UserError, match=rf"NaN or infinity for image {dataset.image_ids[0]}"):
        evaluate(model, dataset, "test")
