"""Measures retrieval with each of the three kinds of model."""
