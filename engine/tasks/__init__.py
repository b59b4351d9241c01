"""From the configuration to training and evaluation, a module for each kind of model; `kinds.py` is the door."""
