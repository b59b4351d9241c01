"""The data set that the toolkit generates."""
