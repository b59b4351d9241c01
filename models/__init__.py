"""The networks, their layers and CPU kernels, and the losses."""
