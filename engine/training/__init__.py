"""The training loop, its position and state, and what watches it."""
