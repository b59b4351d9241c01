"""Steps that run at the same time are shown one after the other, and end together where one fails."""

import dataclasses
import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tools._side_by_side import Step, run_side_by_side

ROOT = Path(__file__).resolve().parents[2]
MEET = """
import pathlib, time
pathlib.Path("{0}").touch()
while not pathlib.Path("{1}").exists():
    time.sleep(0.01)
"""
LEAVE_A_NOTE = """
import pathlib, signal, sys, time
def leave(*_):
    pathlib.Path("ended").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, leave)
pathlib.Path("ready").touch()
time.sleep(60)
"""
WAIT_FOR_READY = "import pathlib, time\nwhile not pathlib.Path('ready').exists(): time.sleep(.01)\n"


def step(code: str, title: str = "A step") -> Step:
    return Step(title, ("-c", code))


@pytest.mark.parametrize("lanes", [1, 2, 5])
def test_lines_of_a_step_stay_together_in_the_order_of_steps(lanes, tmp_path, capfd):
    code = "import sys, time; print({0}); time.sleep({1}); print('half', file=sys.stderr); print({0})"
    steps = [step(code.format(number, 0.2 - 0.1 * number), f"Step {number}") for number in range(3)]
    assert run_side_by_side(steps, lanes, tmp_path, os.environ) == 0
    lines = capfd.readouterr().out.splitlines()
    shown = [line for line in lines if line and not line.startswith("$ python -c ")]
    wanted = [(f"--- Step {number}", str(number), "half", str(number)) for number in range(3)]
    assert shown == [line for group in wanted for line in group if "import" not in line]


def test_as_many_steps_run_at_once_as_there_are_lanes(tmp_path):
    steps = [step(MEET.format("one", "other")), step(MEET.format("other", "one"))]
    assert run_side_by_side(steps, 2, tmp_path, os.environ) == 0


def test_one_lane_starts_a_step_when_the_one_before_has_ended(tmp_path):
    ended = step("import time, pathlib; time.sleep(0.2); pathlib.Path('ended').touch()")
    then = step("import pathlib, sys; sys.exit(not pathlib.Path('ended').exists())")
    assert run_side_by_side([ended, then], 1, tmp_path, os.environ) == 0


def test_a_failed_step_is_shown_and_ends_the_others(tmp_path, capfd):
    failing = step(WAIT_FOR_READY + "print('this is why'); raise SystemExit(3)", "Fails")
    never = step("import pathlib; pathlib.Path('never').touch()")
    assert run_side_by_side([step(LEAVE_A_NOTE), failing, never], 2, tmp_path, os.environ) == 3
    output = capfd.readouterr().out
    assert output.endswith("this is why\n") and "--- Fails\n" in output
    assert (tmp_path / "ended").exists() and not (tmp_path / "never").exists()


def test_an_interrupted_run_leaves_no_step_behind(tmp_path):
    # A job in the background begins with SIGINT ignored.
    imports = "import os, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    imports += "from tools._side_by_side import Step, run_side_by_side; "
    run = f"run_side_by_side([Step('Long', ('-c', {LEAVE_A_NOTE!r}))], 2, {str(tmp_path)!r}, os.environ)"
    waiting = subprocess.Popen([sys.executable, "-c", imports + run], cwd=ROOT, stderr=subprocess.DEVNULL)
    subprocess.run([sys.executable, "-c", WAIT_FOR_READY], cwd=tmp_path, check=True, timeout=60)
    waiting.send_signal(signal.SIGINT)
    assert waiting.wait(timeout=60) != 0
    assert (tmp_path / "ended").exists()


def test_a_step_starts_when_what_it_needs_has_ended(tmp_path):
    slow = step("import time, pathlib; time.sleep(0.3); pathlib.Path('ended').touch()")
    other = step("import pathlib; pathlib.Path('other').touch()")
    needing = step("import pathlib, sys; sys.exit(not pathlib.Path('ended').exists())")
    needing = dataclasses.replace(needing, needs=(slow,))
    assert run_side_by_side([slow, needing, other], 2, tmp_path, os.environ) == 0
    assert (tmp_path / "other").exists()


def test_a_need_that_is_not_among_the_steps_is_an_error(tmp_path):
    needing = dataclasses.replace(step("pass"), needs=(step("1"),))
    with pytest.raises(ValueError, match="needs can end before"):
        run_side_by_side([step("2"), needing], 2, tmp_path, os.environ)


def test_the_demo_waits_for_what_each_step_reads(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    demo = importlib.import_module("demo")
    steps = {one.title: {need.title for need in one.needs} for one in demo.demo_steps(2)}
    assert steps["Train oscar"] == {"Draw 2,400 pictures with five captions each"}
    for model in demo.MODELS:
        evaluation = f"Evaluate {model} on the test split, alone and re-ranked by oscar"
        assert steps[evaluation] == {f"Train {model}", "Train oscar"}
        assert evaluation in steps["Write the report"]
    assert steps["Search by sentence, re-ranked by oscar"] == {"Train vsepp", "Train oscar"}
    assert steps["Look where VSRN looks"] == {"Train vsrn"}
