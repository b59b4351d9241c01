"""Computes ranks and metrics from embeddings and ids."""
