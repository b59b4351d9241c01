"""From a folder of photos and a table of captions to a checked and split data set."""
