"""What a run writes to the disk: checkpoints, log, status and curves."""
