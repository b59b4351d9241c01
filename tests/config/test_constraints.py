"""The keys of models that see pictures must fit together."""

import pytest
import yaml

from config.errors import UserError
from config.load import load_config

CNN = {
    "DATASET": {"IMAGE_DIR": "images"},
    "MODEL": {"NAME": "cnn", "CNN": "resnet18"},
    "LOSS": {"NAME": "quadruplet"},
    "OPTIMIZATION": {"BATCH_SIZE": 12, "SAMPLES_PER_CLASS": 2},
    "MONITOR": {"BEST_METRIC": "r1"},
}


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "task.yaml"
    path.write_text(yaml.safe_dump(CNN))
    return path


def test_a_task_of_metric_learning_is_accepted(task) -> None:
    assert load_config(task, []).MODEL.CNN == "resnet18"
    load_config(task, ["LOSS.NAME=softmax", "OPTIMIZATION.SAMPLES_PER_CLASS=0"])
    load_config(task, ["LOSS.NAME=triplet", "OPTIMIZATION.SAMPLES_PER_CLASS=0"])


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("MODEL.CNN=", 'MODEL.CNN: expected a network such as resnet50 with cnn, got ""'),
        ("DATASET.IMAGE_DIR=", "DATASET.IMAGE_DIR: expected the folder of the pictures with MODEL.CNN"),
        (
            "LOSS.NAME=hinge",
            "LOSS.NAME: expected one of softmax, triplet, .* with cnn, got hinge",
        ),
        ("MODEL.NAME=vsepp", "LOSS.NAME: expected hinge or contrastive with vsepp, got quadruplet"),
        (
            "MONITOR.BEST_METRIC=rsum",
            'BEST_METRIC: expected one of r1, map_at_r, r_precision with cnn, got "rsum"',
        ),
        ("EVAL.FOLDS=5", "EVAL.FOLDS: expected 1 with cnn, got 5"),
        ("INPUT.STANDARDIZE=true", "INPUT.STANDARDIZE: expected false with MODEL.CNN"),
        ("OPTIMIZATION.SAMPLES_PER_CLASS=0", "expected 2 or more with LOSS.NAME=quadruplet, got 0"),
        ("OPTIMIZATION.SAMPLES_PER_CLASS=5", r"BATCH_SIZE: expected a multiple of SAMPLES_PER_CLASS \(5\)"),
        ("OPTIMIZATION.SAMPLES_PER_CLASS=12", "BATCH_SIZE: .*of two classes or more, got 12"),
        ("INPUT.CROP_SIZE=300", r"INPUT.RESIZE: expected at least INPUT.CROP_SIZE \(300\), got 256"),
        ("INPUT.CROP_AREA=[0.5,0.2]", "INPUT.CROP_AREA: expected the least share before the largest"),
    ],
)
def test_what_does_not_fit_is_named(task, override: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        load_config(task, [override])


def test_triplets_come_in_threes(task) -> None:
    with pytest.raises(UserError, match="BATCH_SIZE: expected a multiple of 3 with triplets, got 10"):
        load_config(task, ["LOSS.NAME=triplet", "OPTIMIZATION.BATCH_SIZE=10"])


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["MODEL.NAME=vsrn", "MODEL.CNN=resnet18"], 'MODEL.CNN: expected "" with vsrn'),
        (["MODEL.CNN=resnet18"], "DATASET.IMAGE_DIR: expected the folder of the pictures with MODEL.CNN"),
        (["MONITOR.BEST_METRIC=r1"], 'BEST_METRIC: expected rsum or mean_recall with vsepp, got "r1"'),
        (["INPUT.UNREADABLE=skip"], "INPUT.UNREADABLE: expected refuse where pictures have captions"),
    ],
)
def test_models_with_captions(tmp_path, overrides: list[str], problem: str) -> None:
    path = tmp_path / "task.yaml"
    path.write_text("MODEL:\n  NAME: vsepp\n")
    with pytest.raises(UserError, match=problem):
        load_config(path, overrides)
