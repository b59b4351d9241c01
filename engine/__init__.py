"""Training, evaluation and checkpoints, and the runtime set-up that they share."""
