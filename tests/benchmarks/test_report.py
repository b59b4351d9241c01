"""How benchmarks report: what a ratio means, and that neither a failure nor a missed goal is hidden."""

import json
import sys

import pytest

from benchmarks import _report, run_all


def closing_line(capsys, **arguments) -> dict:
    _report.report(name="x", unit="s", **arguments)
    return json.loads(capsys.readouterr().out)


def test_a_ratio_above_one_is_better_whichever_way_is_better(capsys):
    slower = closing_line(capsys, ours=4.0, baseline=2.0, goal=1.5, higher_is_better=False)
    faster = closing_line(capsys, ours=4.0, baseline=2.0, goal=1.5, higher_is_better=True)
    assert (slower["ratio"], faster["ratio"]) == (0.5, 2.0)
    assert list(faster) == ["name", "ours", "baseline", "ratio", "goal", "unit"]


def test_both_sides_take_turns_and_the_medians_count():
    calls = []
    times = {"ours": iter([1.0, 9.0, 2.0]), "baseline": iter([5.0, 4.0, 60.0])}

    def measure(side):
        calls.append(side)
        return next(times[side])

    medians = _report.alternate(lambda: measure("ours"), lambda: measure("baseline"), rounds=3)
    assert calls == ["ours", "baseline"] * 3
    assert medians == (2.0, 5.0)


def test_a_childs_memory_is_its_own(tmp_path):
    parents = bytearray(300_000_000)  # a child must not begin at its parent's size
    script = tmp_path / "child.py"
    script.write_text(
        f"import sys, json; sys.path.insert(0, {str(_report.ROOT)!r})\n"
        "from benchmarks._report import peak_memory\n"
        "held = bytearray(int(sys.argv[1]))\n"
        "print('noise'); print(json.dumps({'peak': peak_memory()}))"
    )
    small = _report.run_child(str(script), "0")["peak"]
    large = _report.run_child(str(script), "200000000")["peak"]
    assert len(parents) / 1e9 > small
    assert 0.15 < large - small < 0.25


def test_a_child_that_fails_says_why(tmp_path):
    script = tmp_path / "child.py"
    script.write_text("raise ValueError('no such matrix')")
    with pytest.raises(RuntimeError, match="no such matrix"):
        _report.run_child(str(script))


def test_the_page_shows_failures_and_missed_goals(tmp_path):
    line = {"name": "n", "ours": 3.0, "baseline": 2.0, "ratio": 1.5, "goal": 2.0, "unit": "pairs/s"}
    scripts = {
        "good.py": f"print('progress'); print({json.dumps({**line, 'ratio': 2.5})!r})",
        "missed.py": f"print({json.dumps(line)!r})",
        "silent.py": "print('bye')",
        "unable.py": "print('bfloat16: not here, since there are no instructions')",
        "broken.py": "raise SystemExit('out | of memory')",
        "_helper.py": "",
        "run_all.py": "",
    }
    for name, text in scripts.items():
        (tmp_path / name).write_text(text)
    found = run_all.find_scripts(tmp_path)
    assert [path.name for path in found] == ["broken.py", "good.py", "missed.py", "silent.py", "unable.py"]
    text = run_all.page([run_all.run_script(path) for path in found], "Machine: a")
    assert "1 of 2 goals are met, and 2 of 5 scripts failed" in text
    assert "| `unable.py` | bfloat16 |  |  |  |  | not here: there are no instructions | 20" in text
    assert "| `good.py` | n | 3 pairs/s | 2 pairs/s | 2.50 | 2 | yes | 20" in text
    assert "| `missed.py` | n | 3 pairs/s | 2 pairs/s | 1.50 | 2 | **no** | 20" in text
    assert "**failed**: printed no result; its last line is: bye" in text
    assert r"**failed**: ended with 1: out \| of memory" in text


def test_running_some_benchmarks_keeps_what_the_others_measured(tmp_path, monkeypatch):
    line = {"name": "n", "ours": 1.0, "baseline": 2.0, "ratio": 2.0, "goal": 1.0, "unit": "s"}
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text(f"print({json.dumps({**line, 'name': name})!r})")
    monkeypatch.setattr(run_all, "HERE", tmp_path)
    monkeypatch.setattr(run_all, "PAGE", tmp_path / "performance.md")
    monkeypatch.setattr(run_all, "RESULTS", tmp_path / "performance.json")
    gone = {"script": "gone.py", "lines": [line], "failure": "", "minutes": 1.0, "date": "2026-01-31"}
    before = [gone, {**gone, "script": "one.py"}, {**gone, "script": "two.py"}]
    run_all.RESULTS.write_text(json.dumps(before))
    monkeypatch.setattr(sys, "argv", ["run_all.py", "two"])
    assert run_all.main() == 0
    first, second = json.loads(run_all.RESULTS.read_text())
    assert first == before[1]
    assert second["lines"][0]["name"] == "two" and second["date"] > "2026-01-31"
    text = run_all.PAGE.read_text()
    assert "| `one.py` | n | 1 s | 2 s | 2.00 | 1 | yes | 2026-01-31 |" in text and "gone" not in text


def test_the_page_does_not_name_the_machine():
    import platform

    text = run_all.describe_machine()
    assert platform.python_version() in text
    assert platform.node() not in text or len(platform.node()) < 3
    assert sys.executable not in text
