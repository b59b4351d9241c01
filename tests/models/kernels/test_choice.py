"""Which library multiplies: measured, kept for the next process, or set by hand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from config.errors import UserError
from models.kernels import choice
from models.kernels.choice import (
    Choice,
    available,
    choose,
    chosen,
    keep_choice,
    measure,
    numbers_of,
    quickest,
    read_choice,
    repeat,
)

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """Start each test without a choice, and with an empty cache folder."""
    forget(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield tmp_path
    choice._kept_or_measured.cache_clear()


def forget(monkeypatch) -> None:
    """Let this be a new process."""
    monkeypatch.setattr(choice, "_chosen", None)
    choice._kept_or_measured.cache_clear()


def refuse(*_):
    raise AssertionError("it is measured again")


def test_the_first_choice_is_measured_and_the_next_process_repeats_it(monkeypatch):
    first = chosen()
    assert set(first.libraries().values()) <= set(available())
    forget(monkeypatch)
    if len(available()) > 1:
        assert first.origin == "measured"
        monkeypatch.setattr(choice, "measure", refuse)
    assert chosen().libraries() == first.libraries()


def test_the_fastest_library_is_chosen_for_each_kind_of_product(monkeypatch):
    clock, seconds = [0.0], {("packed", "b"): 1.0, ("packed", "a"): 2.0, ("plain", "a"): 1.0}

    def product(kind, name):
        def multiply():
            clock[0] += seconds.get((kind, name), 3.0)

        return multiply

    monkeypatch.setattr(choice, "numbers_of", lambda purpose: ["float32"])
    monkeypatch.setattr(choice, "_product", product)
    monkeypatch.setattr(choice.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(choice.time, "thread_time", lambda: clock[0])
    assert measure(["a", "b"]) == Choice("b", "a", "measured")
    seconds["packed", "b"] = 1.99  # no more than noise
    assert measure(["a", "b"]) == Choice("a", "a", "measured")


def test_what_may_be_rounded_is_multiplied_as_whatever_is_quickest(monkeypatch):
    # Libraries multiply 256 rows by float32 in 4 seconds, which makes 2 for the 128 of other numbers.
    clock, seconds = [0.0], {"float32": 4.0, "int16": 1.5, "digits": 1.0, "bfloat16": 2.5}

    def product(numbers):
        def multiply():
            clock[0] += seconds[numbers]

        return multiply

    here = {"coarse": list(seconds), "fine": list(seconds)[:3], "layers": ["float32", "bfloat16"]}
    monkeypatch.setattr(choice, "numbers_of", here.get)
    monkeypatch.setattr(choice, "_product", lambda kind, name: product("float32"))
    monkeypatch.setattr(choice, "_rounded_product", product)
    monkeypatch.setattr(choice.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(choice.time, "thread_time", lambda: clock[0])
    assert measure(["mkl"]) == Choice("mkl", "mkl", "measured", "digits", "digits", "float32")
    seconds["bfloat16"] = 0.6
    assert measure(["mkl"]) == Choice("mkl", "mkl", "measured", "bfloat16", "digits", "bfloat16")
    seconds["bfloat16"] = seconds["digits"] = seconds["int16"] = 2.0
    assert measure(["mkl"]) == Choice("mkl", "mkl", "measured")


@pytest.mark.parametrize("purpose", ["coarse", "fine", "layers"])
def test_what_is_quickest_does_not_depend_on_the_library_that_is_set(monkeypatch, purpose):
    first = quickest(purpose)
    assert first in numbers_of(purpose)
    forget(monkeypatch)
    choose("numpy")
    assert quickest(purpose) == first
    monkeypatch.setattr(choice, "numbers_of", lambda purpose: ["float32"])
    assert quickest(purpose) == "float32", "what has gone is not taken"


def test_it_is_measured_without_paddle_too(cache):
    """Features are extracted without Paddle, whose import takes longer than many an extraction."""
    code = (
        "import sys; from models.kernels.choice import LAYERS, available, quickest;"
        "print(quickest(LAYERS), 'paddle' in sys.modules, *available())"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.stdout.split()[1:] == ["False", *available()], done.stderr


@pytest.mark.parametrize("name", available())
def test_every_library_that_is_here_can_be_measured_and_set_by_hand(name):
    assert measure([name]).libraries() == {"packed": name, "plain": name}
    choose(name)
    assert chosen() == Choice(name, name, "set by RUNTIME.PRODUCTS")
    assert choice.NAMES[name] in chosen().describe()
    choose("auto")
    assert chosen().origin != "set by RUNTIME.PRODUCTS"


def test_a_library_that_is_not_there_is_one_line(monkeypatch):
    monkeypatch.setattr(choice, "available", lambda: ["numpy"])
    with pytest.raises(UserError, match=r"^RUNTIME.PRODUCTS: expected .*\(auto, numpy\), got mkl: [^\n]*$"):
        choose("mkl")
    assert chosen() == Choice("numpy", "numpy", "the only library here")


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[1, 2]",
        lambda text: json.dumps({**json.loads(text), "libraries": {"packed": "numpy"}}),
        lambda text: json.dumps({**json.loads(text), "libraries": {"packed": "x", "plain": "numpy"}}),
        lambda text: json.dumps({**json.loads(text), "of": {"processor": "another"}}),
        lambda text: json.dumps(
            {**json.loads(text), "quickest": {"coarse": "x", "fine": "float32", "layers": "float32"}}
        ),
        lambda text: json.dumps({**json.loads(text), "quickest": {}}),
        lambda text: "\ud800",
    ],
    ids=[
        "cut",
        "empty",
        "a list",
        "a kind is missing",
        "unknown library",
        "another machine",
        "numbers",
        "none",
        "no text",
    ],
)
def test_a_damaged_or_foreign_file_is_measured_anew(cache, damage):
    path, names = cache / "kept.json", ["mkl", "onednn", "numpy"]
    kept = Choice("numpy", "onednn", "measured")
    assert keep_choice(path, kept, names) == kept
    assert read_choice(path, names) == Choice("numpy", "onednn", "measured before")
    assert read_choice(path, ["numpy"]) is None  # the library has gone since
    path.write_text(damage(path.read_text()), encoding="utf-8", errors="surrogatepass")
    assert read_choice(path, names) is None
    keep_choice(path, kept, names)
    assert read_choice(path, names).libraries() == kept.libraries()
    assert [each.name for each in cache.iterdir()] == ["kept.json"]


def test_of_two_processes_the_first_decides(cache):
    path, names = cache / "kept.json", ["mkl", "onednn", "numpy"]
    keep_choice(path, Choice("mkl", "mkl", "measured"), names)
    assert keep_choice(path, Choice("numpy", "numpy", "measured"), names).packed == "mkl"


def test_where_nothing_can_be_written_it_is_measured(monkeypatch, cache):
    (cache / "file").write_text("")
    assert (
        keep_choice(cache / "file" / "kept.json", Choice("mkl", "mkl", "measured"), ["mkl"]).packed == "mkl"
    )


def test_a_resumed_run_repeats_the_choice_of_its_checkpoint(monkeypatch):
    monkeypatch.setattr(choice, "available", lambda: ["mkl", "numpy"])
    monkeypatch.setattr(choice, "_chosen", Choice("mkl", "mkl", "measured"))
    assert repeat({"packed": "mkl", "plain": "mkl"})
    assert chosen().origin == "measured"
    assert repeat({"packed": "numpy", "plain": "mkl"})
    assert chosen() == Choice("numpy", "mkl", "as in the checkpoint")
    for unknown in (
        {"packed": "onednn", "plain": "mkl"},
        {"packed": "mkl"},
        {"packed": "mkl", "other": "mkl"},
    ):
        assert not repeat(unknown)
    assert chosen() == Choice("numpy", "mkl", "as in the checkpoint")
    choose("numpy")
    assert not repeat({"packed": "mkl", "plain": "mkl"}), "what is set by hand stays"
    assert chosen().plain == "numpy"
