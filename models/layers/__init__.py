"""Layers that use the kernels on the CPU, and Paddle elsewhere."""
