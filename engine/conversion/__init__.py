"""Turns checkpoints of other implementations into run folders of ours, and back."""
