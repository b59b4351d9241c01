"""From embeddings and ids to ranks and metrics."""
