"""Reading data: features, captions, vocabularies, batches."""
