"""How work that takes long tells how far it is."""

from collections.abc import Callable

ShowProgress = Callable[[str, int, int], None]
"""Takes a stage, how much of it is done, counted from its beginning, and its size."""


def no_progress(stage: str, done: int, total: int) -> None:
    """Show nothing."""
