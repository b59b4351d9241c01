"""One rule for paths: the working folder, the data set's folder for its files, and runs that were moved."""

import argparse
import shutil
from pathlib import Path

import pytest

from config.default import KEYS, PATH_RULE
from config.load import PREPARED, add_config_arguments, load_config, save_config
from config.values import data_path
from datasets.preparation.state import STATE


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """Return a working folder with a data set in `data`, pictures beside it, and a run in `out/run`."""
    folder = tmp_path / "project"
    (folder / "data" / "here").mkdir(parents=True)
    (folder / "pictures").mkdir()
    (folder / "features.h5").touch()
    (folder / "out" / "run").mkdir(parents=True)
    (folder / "out" / "run" / "log.jsonl").touch()
    monkeypatch.chdir(folder)
    keys = ["DATASET.DATA_DIR=data", "DATASET.IMAGE_DIR=pictures", "DATASET.LABEL_FILE=here"]
    save_config(load_config(None, [*keys, "DATASET.FEAT_FILE=features.h5"]), "out/run/config.yaml")
    return folder


def paths_of(run: Path | str) -> tuple[str, str, str, str]:
    data = load_config(run).DATASET
    return data.DATA_DIR, data.IMAGE_DIR, data.LABEL_FILE, data.FEAT_FILE


def test_every_key_of_a_file_or_folder_says_what_it_counts_from():
    named = {
        f"{section}.{name}"
        for section, keys in KEYS.items()
        for name, key in keys.items()
        if name.endswith(("_DIR", "_FILE", "_WEIGHTS")) or name in ("DIR", "DUAL")
    }
    marked = {f"{section}.{name}" for section, keys in KEYS.items() for name in keys if keys[name].path}
    assert marked == named
    assert {key.path for keys in KEYS.values() for key in keys.values()} == {"", "working folder", "DATA_DIR"}


def test_a_file_of_the_data_set_is_sought_in_its_folder_and_then_here(project):
    assert data_path("data", "pictures", "test") == Path("pictures")
    (project / "data" / "pictures").mkdir()
    assert data_path("data", "pictures", "test") == Path("data/pictures")
    assert data_path("data", "{split}.csv", "test") == Path("data/test.csv")  # where messages expect it
    (project / "test.csv").touch()
    assert data_path("data", "{split}.csv", "test") == Path("test.csv")
    assert data_path("data", str(project / "test.csv"), "test") == project / "test.csv"


def test_the_folder_of_a_run_stands_for_its_config(project):
    assert load_config("out/run") == load_config("out/run/config.yaml")
    assert load_config("out/run").OUTPUT.SAVE_NAME == "run"


def test_a_run_is_read_from_its_working_folder_with_the_paths_that_were_typed(project):
    assert paths_of("out/run") == ("data", "pictures", "here", "features.h5")


def test_a_run_is_read_from_another_working_folder(project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert paths_of("project/out/run") == (
        "project/data",
        "project/pictures",
        "here",
        "project/features.h5",
    )
    monkeypatch.chdir(project / "out" / "run")
    assert paths_of("config.yaml")[0] == str(project / "data")


def test_a_run_that_was_moved_finds_its_data_where_they_were(project, tmp_path, monkeypatch):
    shutil.move(project / "out" / "run", tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert paths_of(".")[0] == str(project / "data")
    assert load_config(".").OUTPUT.SAVE_NAME == "elsewhere"


def test_a_run_that_was_moved_with_its_data_finds_them_beside_it(project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.move(project, tmp_path / "copied")
    assert paths_of("copied/out/run") == ("copied/data", "copied/pictures", "here", "copied/features.h5")


def test_an_older_run_counts_from_where_its_training_was_started(project, tmp_path, monkeypatch):
    (project / "out" / "run" / "config.yaml").write_text(
        "DATASET:\n  DATA_DIR: data\n  IMAGE_DIR: here\nOUTPUT:\n  CHECKPOINT_DIR: ./out\n  SAVE_NAME: run\n"
    )
    assert paths_of("out/run")[:2] == ("data", "here")
    monkeypatch.chdir(tmp_path)
    assert paths_of("project/out/run")[:2] == ("project/data", "here")


def test_an_older_run_that_was_moved_counts_from_the_working_folder(project, tmp_path, monkeypatch):
    (project / "out" / "run" / "config.yaml").write_text("DATASET:\n  DATA_DIR: data\n")
    shutil.move(project / "out" / "run", tmp_path / "elsewhere")
    assert paths_of(tmp_path / "elsewhere")[0] == "data"


def test_a_path_of_each_split_is_found_by_any_of_them(project, tmp_path, monkeypatch):
    (project / "train_[1].h5").touch()
    save_config(load_config(None, ["DATASET.FEAT_FILE={split}_[1].h5"]), "out/run/config.yaml")
    monkeypatch.chdir(tmp_path)
    assert load_config("project/out/run").DATASET.FEAT_FILE == "project/{split}_[1].h5"


def test_the_command_line_overrides_the_paths_of_a_run(project):
    assert load_config("out/run", ["DATASET.DATA_DIR=other"]).DATASET.DATA_DIR == "other"


def test_the_rule_stands_in_the_help_of_every_tool_with_a_configuration():
    parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config_arguments(parser)
    assert PATH_RULE in parser.format_help()


def test_a_tilde_is_the_home_folder_in_paths_alone(project, monkeypatch):
    monkeypatch.setenv("HOME", str(project))
    data = load_config(None, ["DATASET.DATA_DIR=~/data", "DATASET.NAME=~/data"]).DATASET
    assert Path(data.DATA_DIR) == project / "data"
    assert data["NAME"] == "~/data"


def write_task(folder: Path, images: Path) -> None:
    """Write what matters of a folder of tools/prepare_data.py."""
    folder.mkdir(parents=True)
    (folder / STATE).touch()
    (folder / "vocabulary.json").touch()
    keys = {"DATA_DIR": folder, "IMAGE_DIR": images, "FEAT_FILE": "features.h5"}
    lines = [f"INPUT:\n  VOCAB_FILE: {folder / 'vocabulary.json'}", "DATASET:"]
    (folder / "task.yaml").write_text("\n".join([*lines, *(f"  {key}: {keys[key]}" for key in keys)]) + "\n")


def test_a_prepared_folder_that_was_moved_finds_its_files(tmp_path, monkeypatch):
    assert PREPARED == STATE
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old" / "photos").mkdir(parents=True)
    write_task(tmp_path / "old" / "data", tmp_path / "old" / "photos")
    cfg = load_config("old/data/task.yaml")
    assert str(tmp_path / "old" / "data") == cfg.DATASET.DATA_DIR
    shutil.move(tmp_path / "old" / "data", tmp_path / "alone")
    cfg = load_config("alone/task.yaml")
    assert (cfg.DATASET.DATA_DIR, cfg.INPUT.VOCAB_FILE) == ("alone", "alone/vocabulary.json")
    assert cfg.DATASET.FEAT_FILE == "features.h5"
    assert str(tmp_path / "old" / "photos") == str(Path(cfg.DATASET.IMAGE_DIR).absolute())
    shutil.move(tmp_path / "alone", tmp_path / "old" / "data")
    shutil.move(tmp_path / "old", tmp_path / "new")
    cfg = load_config("new/data/task.yaml", ["MODEL.EMBED_DIM=7"])
    assert (cfg.DATASET.DATA_DIR, cfg.DATASET.IMAGE_DIR) == ("new/data", "new/photos")
    (tmp_path / "new" / "data" / STATE).unlink()
    assert str(tmp_path / "old" / "data") == load_config("new/data/task.yaml").DATASET.DATA_DIR
