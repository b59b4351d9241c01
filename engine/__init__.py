"""Training, evaluation, checkpoints and the run time they share."""
