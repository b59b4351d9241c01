"""The texts that describe the configuration are made from the keys and cannot lag behind them."""

import subprocess
import sys
from pathlib import Path

from config.default import KEYS
from config.describe import describe_changes, keys_as_markdown
from config.load import config_as_dict, describe_keys, load_config

ROOT = Path(__file__).resolve().parents[2]


def show_config(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "tools" / "show_config.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")


def test_the_page_about_the_configuration_is_up_to_date():
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == keys_as_markdown(), "run: python tools/show_config.py --markdown > docs/configuration.md"


def test_the_description_names_every_key_with_its_default_and_choices():
    text = describe_keys()
    for section, keys in KEYS.items():
        assert f"{section}\n" in text
        for name, key in keys.items():
            assert f"  {name}: " in text
            assert key.meaning
    assert "accepts one of adam, adamw, bert_adamw, sgd, momentum" in text
    assert max(len(line) for line in text.splitlines()) < 110


def test_what_differs_from_the_default_is_marked_and_loads_again(tmp_path):
    cfg = load_config(None, ["MODEL.NAME=vse", "INPUT.VOCAB_SPLITS=[train,dev]", "DATASET.NAME=a # b"])
    text = describe_changes(config_as_dict(cfg))
    marked = [line.strip() for line in text.splitlines() if "# default: " in line]
    assert marked == [
        "VOCAB_SPLITS: [train, dev]  # default: []",
        "NAME: 'a # b'  # default: \"\"",
        "NAME: vse  # default: vsepp",
    ]
    (tmp_path / "shown.yaml").write_text(text)
    assert load_config(tmp_path / "shown.yaml") == cfg


def test_the_tool_shows_keys_the_page_and_merged_values():
    assert show_config().stdout == show_config("--help-config").stdout == describe_keys()
    assert show_config("--markdown").stdout == keys_as_markdown()
    merged = show_config("MISC.SEED=1", "--cfg_file", str(ROOT / "configs/f8k/vse.yaml"), "LOSS.MARGIN=0.3")
    assert merged.returncode == 0
    for line in ("SEED: 1  # default: 123", "LR: 0.001  # default: 0.0002", "MARGIN: 0.3  # default: 0.2"):
        assert line in merged.stdout


def test_the_tool_reports_a_mistake_on_one_line_and_leaves_with_2():
    for arguments, expected in (
        (["--cfg_flie", "x.yaml"], "did you mean --cfg_file?"),
        (["--cfg-file", "x.yaml"], "did you mean --cfg_file?"),
        (["OUTPUT.SAVE_NAME", "x"], "write OUTPUT.SAVE_NAME=x"),
        (["--OUTPUT.SAVE_NAME=x"], "write OUTPUT.SAVE_NAME=VALUE without the dashes"),
    ):
        result = show_config(*arguments)
        assert (result.returncode, result.stdout) == (2, "")
        assert len(result.stderr.splitlines()) == 1
        assert result.stderr.startswith("error: command line: ")
        assert expected in result.stderr
