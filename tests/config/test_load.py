"""What a configuration is made of: defaults, a task file with its bases, and the command line."""

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from config.default import KEYS
from config.errors import UserError
from config.load import config_as_dict, load_config, save_config

ROOT = Path(__file__).resolve().parents[2]


def write(folder: Path, **files: str) -> Path:
    """Write `name.yaml` for each of `files`, and return the path of the last."""
    for name, text in files.items():
        path = folder / f"{name}.yaml"
        path.write_text(text, encoding="utf-8")
    return path


def test_without_a_file_every_key_has_its_default():
    cfg = load_config(None)
    for section, keys in KEYS.items():
        for name, key in keys.items():
            expected = tuple(key.default) if isinstance(key.default, list) else key.default
            assert cfg[section][name] == expected
            assert type(cfg[section][name]) is type(expected)


def test_the_command_line_wins_over_the_file_and_the_file_over_its_bases(tmp_path):
    task = write(
        tmp_path,
        first="MODEL:\n  EMBED_DIM: 1\n  WORD_DIM: 1\n  NUM_LAYERS: 1\nLOSS:\n  MARGIN: 0.1\n",
        second="MODEL:\n  WORD_DIM: 2\n  NUM_LAYERS: 2\n",
        task="MODEL:\n  NUM_LAYERS: 3\n_BASE_: [first.yaml, second.yaml]\n",
    )
    cfg = load_config(task, ["LOSS.MARGIN=0.4"])
    model = cfg.MODEL
    assert (model.EMBED_DIM, model.WORD_DIM, model.NUM_LAYERS, cfg.LOSS.MARGIN) == (1, 2, 3, 0.4)


def test_a_base_is_relative_to_the_file_that_names_it(tmp_path):
    (tmp_path / "base").mkdir()
    write(tmp_path / "base", root="MODEL:\n  EMBED_DIM: 7\n", middle="_BASE_: root.yaml\n")
    task = write(tmp_path, task="_BASE_: base/middle.yaml\n")
    assert load_config(task).MODEL.EMBED_DIM == 7


def test_two_bases_may_share_a_base(tmp_path):
    shared = "_BASE_: root.yaml\n"
    task = write(
        tmp_path, root="MISC:\n  SEED: 5\n", a=shared, b=shared, task="_BASE_:\n- a.yaml\n- b.yaml\n"
    )
    assert load_config(task).MISC.SEED == 5


@pytest.mark.parametrize(
    "text", ["", "# only a comment\n", "MODEL:\n", "---\n", "\ufeffMODEL:\n  # nothing\n"]
)
def test_a_file_without_settings_is_fine(tmp_path, text):
    assert load_config(write(tmp_path, task=text)) == load_config(None)


@pytest.mark.parametrize(
    ("spelling", "rate"),
    [("1e-4", 1e-4), ("1E-4", 1e-4), ("2", 2.0), (".5", 0.5), ("5.", 5.0), ("+1.5e+1", 15.0), ("0x10", 16.0)],
)
def test_numbers_are_read_as_yaml_1_2_spells_them(tmp_path, spelling, rate):
    from_file = load_config(write(tmp_path, task=f"OPTIMIZATION:\n  LR: {spelling}\n")).OPTIMIZATION.LR
    from_command_line = load_config(None, [f"OPTIMIZATION.LR={spelling}"]).OPTIMIZATION.LR
    assert from_file == from_command_line == rate
    assert type(from_file) is type(from_command_line) is float


def test_a_leading_zero_is_not_octal_and_off_is_text(tmp_path):
    cfg = load_config(write(tmp_path, task="MISC: {SEED: 010}\nRUNTIME: {AMP: off}\nDATASET: {TRAIN: yes}\n"))
    assert (cfg.MISC.SEED, cfg.RUNTIME.AMP, cfg.DATASET.TRAIN) == (10, "off", "yes")


@pytest.mark.parametrize(
    "text", ["123", "1e-4", "true", "null", "", "a=b", " spaced ", "[1]", "'quoted'", "ключ"]
)
def test_text_on_the_command_line_is_taken_literally(text):
    name = load_config(None, [f"DATASET.NAME={text}"]).DATASET.NAME
    assert name == text


def test_lists_on_the_command_line():
    cfg = load_config(
        None,
        [
            "INPUT.VOCAB_SPLITS=[train, 2014]",
            "OPTIMIZATION.LR_MILESTONES=[1,2.5]",
            "OPTIMIZATION.BETAS=[0,.9]",
        ],
    )
    assert cfg.INPUT.VOCAB_SPLITS == ("train", "2014")
    assert cfg.OPTIMIZATION.LR_MILESTONES == (1.0, 2.5)
    assert cfg.OPTIMIZATION.BETAS == (0.0, 0.9)
    assert load_config(None, ["INPUT.VOCAB_SPLITS=[]"]).INPUT.VOCAB_SPLITS == ()


def test_the_last_override_of_a_key_counts():
    assert load_config(None, ["MISC.SEED=1", "MISC.SEED=2"]).MISC.SEED == 2


def test_nothing_in_a_loaded_configuration_can_change():
    cfg = load_config(None)

    def assign():
        cfg.MISC.SEED = 1

    def assign_item():
        cfg["MISC"]["SEED"] = 1

    def merge_in_place():
        node = cfg.MISC
        node |= {"SEED": 1}

    for change in (
        assign,
        assign_item,
        merge_in_place,
        lambda: cfg.MISC.update(SEED=1),
        lambda: cfg.MISC.pop("SEED"),
        lambda: cfg.MISC.setdefault("NEW", 1),
        lambda: cfg.defrost(),
        lambda: cfg.merge_from_list(["MISC.SEED", 1]),
        lambda: cfg.OPTIMIZATION.BETAS.append(1),
    ):
        with pytest.raises((TypeError, AttributeError)):
            change()
    assert cfg == load_config(None)


def test_a_configuration_can_be_copied_and_pickled():
    cfg = load_config(None, ["MISC.SEED=5"])
    for other in (copy.deepcopy(cfg), copy.copy(cfg), cfg.clone(), pickle.loads(pickle.dumps(cfg))):  # noqa: S301
        assert other == cfg
        assert other.is_frozen()


def test_a_saved_configuration_loads_as_exactly_the_same(tmp_path):
    cfg = load_config(
        None,
        [
            "OPTIMIZATION.LR=0.1234567890123456789",
            "OPTIMIZATION.EPSILON=1e-300",
            "OPTIMIZATION.LR_MILESTONES=[1, 2.0000000000000004]",
            "INPUT.VOCAB_SPLITS=[1e5, 0o7, 'null', '', train]",
            "DATASET.NAME=0o17",
            "DATASET.TRAIN=# no: comment, [at] {all}",
            "DATASET.DATA_DIR=/two\nlines\tand a tab \U0001f600 \x85\u2028",
            "DATASET.DEV= - ",
            "DATASET.TEST=1_000",
            "DATASET.IMAGE_DIR=\udcff",
            "DATASET.CAPTION_FILE=\x85folder",
            "OUTPUT.CHECKPOINT_DIR=/out",
            "OUTPUT.SAVE_NAME=2024-01-01",
        ],
    )
    save_config(cfg, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == cfg
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_saving_where_there_is_no_folder_is_the_users_error(tmp_path):
    with pytest.raises(UserError, match="missing/config.yaml: cannot write the configuration: No such file"):
        save_config(load_config(None), tmp_path / "missing" / "config.yaml")


def test_the_dict_of_a_configuration_is_plain_and_apart():
    cfg = load_config(None)
    values = config_as_dict(cfg)
    assert json.loads(json.dumps(values)) == values
    assert type(values["MODEL"]) is dict
    values["OPTIMIZATION"]["BETAS"].append(1)
    assert cfg == load_config(None)


def test_loading_a_configuration_imports_neither_paddle_nor_numpy():
    script = "import config.load, sys; sys.exit(any(name in sys.modules for name in ('paddle', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0
