"""Ranking, matching and metric-learning losses, and the queue of past batches."""
