"""Measuring the three kinds of model."""
