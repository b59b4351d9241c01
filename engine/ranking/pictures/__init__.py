"""Ranks pictures among pictures, by bounds on their scores, and the metrics of metric learning."""
