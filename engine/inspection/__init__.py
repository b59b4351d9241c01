"""Shows what stands behind a result: what each query found first, misses, disagreements, false negatives."""
