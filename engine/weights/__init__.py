"""Reads and writes tensors by name, and weights from elsewhere: BERT, Oscar, torchvision, Paddle."""
