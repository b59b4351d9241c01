"""Where there is no terminal, a long stage tells every half minute how far it is."""

import sys

from tools import _progress


def test_lines_tell_speed_and_time_left(capsys):
    clock = iter([100.0, 110.0, 130.0, 140.0, 161.0, 200.0, 300.0, 331.0])
    lines = _progress.ProgressLines(lambda: next(clock))
    for stage, done in (
        ("encode images", 5),
        ("score pairs", 10),  # 110: a new stage
        ("score pairs", 1000),  # 130
        ("score pairs", 3000),  # 140: half a minute of it
        ("score pairs", 4000),  # 161: too soon
        ("score pairs", 10_000),  # 200: over
        ("rank", 0),  # 300
        ("rank", 0),  # 331: no speed yet
    ):
        lines.show(stage, done, 10_000)
    assert capsys.readouterr().out.splitlines() == [
        "score pairs: 3,000 of 10,000, 100/s, left 1:10",
        "rank: 0 of 10,000, 0/s, left unknown",
    ]


def test_the_speed_of_a_resumed_stage_is_that_of_what_it_did_itself(capsys):
    clock = iter([0.0, 40.0])
    lines = _progress.ProgressLines(lambda: next(clock))
    lines.show("writing", 9_000, 10_000)
    lines.show("writing", 9_400, 10_000)
    assert capsys.readouterr().out == "writing: 9,400 of 10,000, 10/s, left 1:00\n"


def test_a_terminal_has_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with _progress.progress_display() as show:
        show("score pairs", 10, 40)
        show("score pairs", 40, 40)
    captured = capsys.readouterr()
    assert "score pairs" in captured.err and "40/40" in captured.err and not captured.out
