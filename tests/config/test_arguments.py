"""All tools take the configuration from the command line in one way."""

import argparse

import pytest

from config.command_line import split_overrides
from config.errors import UserError
from config.load import (
    add_config_arguments,
    config_from_arguments,
    configs_of_checkpoints,
    load_config,
    save_config,
)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tool", description="Not to be taken for --other_tool_options.")
    add_config_arguments(parser)
    parser.add_argument("--text")
    parser.add_argument("--resume", action="store_true")
    return parser


def test_options_may_stand_between_overrides(tmp_path):
    task = tmp_path / "task.yaml"
    task.write_text("MISC:\n  SEED: 1\n")
    words = [
        "LOSS.MARGIN=0.5",
        "--cfg_file",
        str(task),
        "MODEL.EMBED_DIM=8",
        "--resume",
        "--text",
        "a dog",
        "MODEL.WORD_DIM=4",
    ]
    args = make_parser().parse_args(words)
    cfg = config_from_arguments(args)
    assert (args.resume, args.text) == (True, "a dog")
    assert (cfg.MISC.SEED, cfg.LOSS.MARGIN, cfg.MODEL.EMBED_DIM, cfg.MODEL.WORD_DIM) == (1, 0.5, 8, 4)


def test_a_missing_task_file_argument_is_said_unless_it_is_optional():
    args = make_parser().parse_args(["MISC.SEED=4"])
    with pytest.raises(UserError, match="command line: expected --cfg_file F"):
        config_from_arguments(args)
    assert config_from_arguments(args, file_needed=False).MISC.SEED == 4
    args = make_parser().parse_args(["MISC.SEED=4", "my task.yaml"])
    with pytest.raises(UserError, match="such as --cfg_file my task.yaml, got none"):
        config_from_arguments(args)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--cfg_flie", "x.yaml"], "unrecognized arguments: --cfg_flie; did you mean --cfg_file?"),
        (["--cfg_file"], "argument --cfg_file: expected one argument; see tool --help"),
        (["--resum3"], "did you mean --resume?"),
        (["--lr", "1e-3"], "write OPTIMIZATION.LR=VALUE without the dashes"),
        (["--embed-dim=5"], "write MODEL.EMBED_DIM=VALUE without the dashes"),
        (["--other_tools_option"], "see tool --help"),
        (["--xyz"], "unrecognized arguments: --xyz; see tool --help"),
        (["--LOSS.MARGIN=1"], "write LOSS.MARGIN=VALUE without the dashes"),
        (["--text", "two\nlines", "--tex\nt"], "unrecognized arguments"),
    ],
)
def test_a_wrong_option_is_one_line_with_what_was_meant(words, expected):
    with pytest.raises(UserError) as caught:
        make_parser().parse_args(words)
    message = str(caught.value)
    assert message.startswith("command line: ")
    assert expected in message
    assert len(message.splitlines()) == 1


def test_help_names_the_arguments(capsys):
    for option, expected in (("--help", "KEY=VALUE"), ("--help-config", "IMG_FEATURE_DIM")):
        with pytest.raises(SystemExit) as left:
            make_parser().parse_args([option])
        assert left.value.code == 0
        assert expected in capsys.readouterr().out


def test_the_config_of_a_run_means_the_run_that_it_lies_in(tmp_path, monkeypatch):
    run = tmp_path / "moved" / "copy"
    run.mkdir(parents=True)
    (run / "log.jsonl").touch()
    save_config(
        load_config(None, ["OUTPUT.CHECKPOINT_DIR=out", "OUTPUT.SAVE_NAME=first"]), run / "config.yaml"
    )
    parser = argparse.ArgumentParser()
    add_config_arguments(parser)
    monkeypatch.chdir(tmp_path)
    cfg = config_from_arguments(parser.parse_args(["--cfg_file", "moved/copy/config.yaml"]))
    assert (cfg.OUTPUT.CHECKPOINT_DIR, cfg.OUTPUT.SAVE_NAME) == ("moved", "copy")
    cfg = config_from_arguments(
        parser.parse_args(["--cfg_file", "moved/copy/config.yaml", "OUTPUT.SAVE_NAME=second"])
    )
    assert cfg.OUTPUT.SAVE_NAME == "second"


def test_overrides_after_an_option_of_several_values_are_overrides():
    words = ["out/a/best", "lr=0.1/best", "./MODEL.LR=1/best", "EVAL.FOLDS=5", "MODELS.NAME=vse"]
    assert split_overrides(words) == (words[:3], words[3:])
    assert split_overrides(None) == ([], [])


def test_a_checkpoint_is_read_as_its_run_says(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / "moved" / name / "best").mkdir(parents=True)
        (tmp_path / "moved" / name / "log.jsonl").touch()
        config = load_config(None, ["OUTPUT.SAVE_NAME=first", f"DATASET.DATA_DIR=/data/{name}"])
        save_config(config, tmp_path / "moved" / name / "config.yaml")
    monkeypatch.chdir(tmp_path / "moved" / "b")
    first, second = configs_of_checkpoints(["../a/best", "best"], ["EVAL.FOLDS=5"])
    assert (first.DATASET.DATA_DIR, second.DATASET.DATA_DIR) == ("/data/a", "/data/b")
    assert (first.EVAL.CHECKPOINT_DIR, second.EVAL.CHECKPOINT_DIR) == ("../a/best", "best")
    assert (first.OUTPUT.SAVE_NAME, second.OUTPUT.SAVE_NAME) == ("a", "b")
    assert first.EVAL.FOLDS == second.EVAL.FOLDS == 5
