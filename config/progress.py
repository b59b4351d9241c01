"""The callback with which long work reports its progress."""

from collections.abc import Callable

ShowProgress = Callable[[str, int, int], None]
"""It takes the name of a stage, the number of its items that are done so far, and their total number."""


def no_progress(stage: str, done: int, total: int) -> None:
    """Show nothing."""
