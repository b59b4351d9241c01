"""Help comes at once, shows examples that hold, and a mistyped option is told from what was meant."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EARLIER_NAMES = {"convert_cnn.py", "convert_oscar.py"}  # of convert_weights.py, whose help they show
TOOLS = sorted({path.name for path in (ROOT / "tools").glob("[!_]*.py")} - EARLIER_NAMES)
TYPOS = {
    "audit_data.py": ("--imgaes", "--images"),
    "inspect_results.py": ("--cuont", "--count"),
    "judge_pairs.py": ("--judgments", "--judgements"),
    "build_index.py": ("--galery", "--gallery"),
    "change_index.py": ("--delte", "--delete"),
    "serve_retrieval.py": ("--prot", "--port"),
    "check_data.py": ("--skpi_values", "--skip_values"),
    "compare_results.py": ("--fial_below", "--fail_below"),
    "convert_features.py": ("--dytpe", "--dtype"),
    "convert_weights.py": ("--vocabluary", "--vocabulary"),
    "demo.py": ("--hepl", "--help"),
    "encode.py": ("--galery", "--gallery"),
    "eval_retrieval.py": ("--save-scores", "--save_scores"),
    "export_model.py": ("--precison", "--precision"),
    "extract_features.py": ("--dytpe", "--dtype"),
    "fetch_pretrained.py": ("--overwirte", "--overwrite"),
    "make_report.py": ("--titel", "--title"),
    "make_scenes.py": ("--image_sise", "--image_size"),
    "prepare_data.py": ("--captoins", "--captions"),
    "prepare_sop.py": ("--uot", "--out"),
    "measure_floor.py": ("--otu", "--out"),
    "measure_results.py": ("--wokr", "--work"),
    "write_results.py": ("--chekc", "--check"),
    "recount.py": ("--protocl", "--protocol"),
    "runs.py": ("--jsno", "--json"),
    "search_retrieval.py": ("--txet", "--text"),
    "show_config.py": ("--markdwon", "--markdown"),
    "split_classes.py": ("--sede", "--seed"),
    "train_retrieval.py": ("--ovrewrite", "--overwrite"),
    "visualize.py": ("--regoin", "--region"),
}
CONFIGURED = [
    name
    for name in TOOLS
    if ("retrieval" in name and name != "serve_retrieval.py")
    or name
    in (
        "audit_data.py",
        "check_data.py",
        "encode.py",
        "export_model.py",
        "measure_floor.py",
        "visualize.py",
    )
]


def start(tool: str, *arguments: str) -> tuple[subprocess.CompletedProcess, set[str]]:
    """Run a tool; return what it did, and the modules that it imported."""
    command = [sys.executable, "-X", "importtime", str(ROOT / "tools" / tool), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    lines = done.stderr.splitlines(keepends=True)
    done.stderr = "".join(line for line in lines if not line.startswith("import time:"))
    modules = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    return done, modules


def test_every_tool_is_here():
    assert set(TOOLS) == set(TYPOS)


@pytest.mark.parametrize("tool", TOOLS)
def test_help_teaches_without_paddle(tool):
    done, modules = start(tool, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    slow = {"paddle", "matplotlib", "safetensors", "visualdl", "h5py", "nltk", "tokenizers", "jinja2"}
    assert "argparse" in modules and not modules & slow
    joined = done.stdout.replace("\\\n", " ")
    examples = re.findall(rf"python tools/{tool}(.*)", joined)
    assert examples, "an example to copy"
    described = done.stdout.partition("\noptions:")[2]
    for words in (shlex.split(example.rstrip(")")) for example in examples):
        options = [word for word in words if word.startswith("--")]
        assert all(f"  {option} " in described for option in options), words
        for name in [word for word in words if word.startswith("configs/")]:
            assert (ROOT / name).is_file()


@pytest.mark.parametrize("tool", TOOLS)
def test_a_mistyped_option_is_one_line_with_the_right_one(tool):
    typo, meant = TYPOS[tool]
    cfg = ["--cfg_file", "configs/f8k/vse.yaml"] if tool in CONFIGURED else []
    query = {
        "compare_results.py": ["a", "b"],
        "recount.py": ["a.npz"],
        "inspect_results.py": ["desk", "a"],
        "judge_pairs.py": ["a"],
        "measure_results.py": ["--data", "a"],
        "build_index.py": ["--bundle", "a", "--out", "b"],
        "change_index.py": ["--index", "a", "--check"],
        "convert_features.py": ["a.tsv", "a.h5"],
        "convert_weights.py": ["a.pth", "b"],
        "encode.py": ["--out", "a.npz"],
        "export_model.py": ["--out", "b"],
        "extract_features.py": ["--images", "a", "--backbone", "b", "--out", "c.h5"],
        "fetch_pretrained.py": ["bert", "folder"],
        "prepare_data.py": ["--images", "a", "--out", "b"],
        "prepare_sop.py": ["sop"],
        "search_retrieval.py": ["--image", "1"],
        "split_classes.py": ["a", "b", "--train", "1", "--dev", "1", "--test", "1"],
        "visualize.py": ["--image", "1"],
        "make_report.py": ["out"],
    }
    done, modules = start(tool, *cfg, *query.get(tool, []), typo)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: command line: ") and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.endswith(f"did you mean {meant}?\n"), done.stderr
    assert "paddle" not in modules


@pytest.mark.parametrize(
    ("command", "meant"),
    [
        (
            ["search_retrieval.py", "--cfg_file", "configs/f8k/vse.yaml", "--txt", "a dog"],
            "--txt; did you mean --text?",
        ),
        (["prepare_data.py", "--images", "a", "--outt=b"], "--outt; did you mean --out?"),
        (["convert_weights.py", "--vocabluary", "a"], "--vocabluary; did you mean --vocabulary?"),
    ],
)
def test_a_mistyped_option_is_told_before_what_is_missing(command, meant):
    done, _ = start(*command)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: command line: unrecognized arguments: {meant}\n"
    done, _ = start("prepare_data.py", "--ou", "a")  # argparse takes the beginning of an option for it
    assert "the following arguments are required: --images; see" in done.stderr


@pytest.mark.parametrize("tool", [*CONFIGURED, "show_config.py"])
def test_every_key_is_described_on_request(tool):
    done, modules = start(tool, "--help-config")
    assert (done.returncode, done.stderr) == (0, "")
    assert "OPTIMIZATION\n" in done.stdout and "paddle" not in modules
