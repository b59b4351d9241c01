"""Turns a configuration into training or evaluation: a module for each kind of model (`kinds.py`)."""
