"""The callback with which long work reports its progress, and how a time is written."""

from collections.abc import Callable

ShowProgress = Callable[[str, int, int], None]
"""It takes the name of a stage, the number of its items that are done so far, and their total number."""


def no_progress(stage: str, done: int, total: int) -> None:
    """Show nothing."""


def duration(seconds: float) -> str:
    """Return a time as hours, minutes and seconds, such as 1:02:03 or 2:03."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
