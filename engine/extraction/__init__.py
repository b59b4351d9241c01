"""Extracts features from pictures with a trained network."""
