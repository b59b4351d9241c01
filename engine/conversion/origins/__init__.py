"""One module for each implementation whose checkpoints are known, with a function `convert`."""
