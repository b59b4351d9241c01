"""Which samples form which batch."""
