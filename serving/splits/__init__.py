"""Search in one split of a data set by the model itself, with Paddle: no bundle, no index."""
