"""What the tools share."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tools._command import folder_name, run


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red circle, left of it", "a_red_circle_left_of_it"),
        ("circle 红色", "circle_红色"),
        ("val/COCO-12.jpg", "val_COCO-12.jpg"),
        ("../../etc", "etc"),
        ("?!", "query"),
        ("", "query"),
    ],
)
def test_any_text_becomes_the_name_of_one_folder(text, expected):
    assert folder_name(text, "query") == expected


@pytest.mark.parametrize("tool", ["eval_retrieval", "recount"])
def test_a_missing_package_is_one_line(tool):
    """-S leaves out what is installed, as a Python outside the environment does."""
    command = [sys.executable, "-S", Path(__file__).resolve().parents[2] / "tools" / f"{tool}.py"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*command, "a.npz"], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: "), done.stderr
    assert " is not installed here: source .venv/bin/activate (make demo makes it), or " in done.stderr


def test_ctrl_c_says_how_the_work_goes_on(capsys):
    def interrupted() -> None:
        raise KeyboardInterrupt

    for goes_on, expected in (("", "interrupted\n"), ("again goes on", "interrupted: again goes on\n")):
        with pytest.raises(SystemExit) as ended:
            run(interrupted, goes_on)
        assert (ended.value.code, capsys.readouterr().err) == (130, expected)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("lines", [1, 5000])
def test_output_that_finds_no_space_is_one_line(unbuffered, lines):
    script = f"import _init_paths, _command; _command.run(lambda: print('a hit\\n' * {lines}))"
    tools = Path(__file__).resolve().parents[2] / "tools"
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONPATH": str(tools), "PYTHONUNBUFFERED": unbuffered},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    expected = "error: cannot write the output: No space left on device: send it elsewhere\n"
    assert (done.returncode, done.stderr) == (2, expected)


def test_a_crash_of_compiled_code_ends_the_process_and_tells_the_lines_of_python():
    program = (
        "import os, sys; sys.path.insert(0, 'tools')\n"
        "from _command import start_runtime\n"
        "from config.load import load_config\n"
        "def multiply(): os.abort()\n"
        "start_runtime(load_config('configs/scenes/vse.yaml', ['RUNTIME.DEVICE=cpu']))\n"
        "multiply()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == -signal.SIGABRT
    assert " in multiply\n" in done.stderr, done.stderr
