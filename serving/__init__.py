"""Search over embeddings, and the pages that show it."""
