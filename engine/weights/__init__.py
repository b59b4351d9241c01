"""Tensors by name, and the weights of others: BERT, Oscar, torchvision, Paddle."""
