"""What a run leaves on the disk: checkpoints, log, status, curves."""
