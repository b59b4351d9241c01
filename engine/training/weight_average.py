"""An exponential moving average (EMA) of the weights, which is evaluated and saved in their place."""

import contextlib
from collections.abc import Iterator

import numpy as np
import paddle

from engine.weights.tensors import assign_arrays, layer_arrays, layer_tensors


class WeightAverage:
    """The moving average of a layer's parameters and buffers: average += (value - average) (1 - decay).

    The average starts at the layer's weights at construction. In the first steps the decay is lower,
    min(decay, (1 + step) / (10 + step)), so that the early weights are soon forgotten.
    """

    def __init__(self, layer: paddle.nn.Layer, decay: float):
        self.layer, self.decay = layer, decay
        self._averages = {name: tensor.detach().clone() for name, tensor in layer_tensors(layer).items()}

    def update(self, step: int) -> None:
        """Update the average with the weights after the 0-based `step`; integers are copied."""
        decay = min(self.decay, (1 + step) / (10 + step))
        with paddle.no_grad():
            for name, tensor in layer_tensors(self.layer).items():
                average = self._averages[name]
                moving = tensor.is_floating_point()
                average.set_value(average + (tensor - average) * (1 - decay) if moving else tensor)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Put the averaged weights into the layer for a `with` block; then restore its own, bit for bit."""
        trained = layer_arrays(self.layer)
        assign_arrays(self.layer, self.arrays())
        try:
            yield
        finally:
            assign_arrays(self.layer, trained)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return copies of the averages by structured name."""
        return {name: tensor.numpy() for name, tensor in self._averages.items()}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Set the averages to `arrays`, whose names and shapes were checked."""
        for name, average in self._averages.items():
            average.set_value(arrays[name])
