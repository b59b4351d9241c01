"""From pictures to features by a finished network."""
