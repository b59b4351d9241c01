"""From the configuration to training and evaluation, a module a kind of model; `kinds.py` is the door."""
