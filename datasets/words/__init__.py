"""From text to token ids: words and word pieces."""
