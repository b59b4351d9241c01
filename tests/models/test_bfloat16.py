"""Layers that multiply in bfloat16 round the factors alone, and gradients are those of that product."""

import numpy as np
import paddle
import pytest

from models.kernels.precision import computing_in
from models.layers.lowered import Linear, product
from tests.closeness import assert_close, rounding
from tests.models.kernels.test_onednn_products import as_kind
from tests.models.test_ways import NETWORKS, ROUNDINGS

pytestmark = pytest.mark.usefixtures("bfloat16")
UNIT = 2.0**-8  # of two rounded factors


def drawn(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape, dtype=np.float32)


def exact(x):
    return as_kind(np.ascontiguousarray(x), np.uint16)[1]


@pytest.mark.parametrize("transposed", [False, True])
def test_a_product_and_its_gradients_are_those_of_rounded_factors(transposed):
    rows, weight, d_product = drawn(3, 7, 20), drawn(20, 9), drawn(3, 7, 9)
    x = paddle.to_tensor(rows, stop_gradient=False)
    w = paddle.to_tensor(weight.T.copy() if transposed else weight, stop_gradient=False)
    with computing_in("bfloat16"):
        found = product(x, w, transposed)
    (found * paddle.to_tensor(d_product)).sum().backward()
    flat, d_flat = exact(rows).reshape(-1, 20), exact(d_product).reshape(-1, 9)
    assert_close(found.numpy().reshape(-1, 9), flat @ exact(weight), 20, np.abs(flat) @ np.abs(exact(weight)))
    d_rows, size = d_flat @ exact(weight).T, np.abs(d_flat) @ np.abs(exact(weight)).T
    assert_close(x.grad.numpy().reshape(-1, 20), d_rows, 9, size)
    d_weight = w.grad.numpy().T if transposed else w.grad.numpy()
    assert_close(d_weight, flat.T @ d_flat, 21, np.abs(flat).T @ np.abs(d_flat))


def test_a_linear_map_adds_its_bias_in_float32_and_may_be_frozen():
    layer, rows = Linear(6, 4), paddle.to_tensor(drawn(5, 6))
    layer.bias.set_value(paddle.full([4], 1 + 2.0**-12))  # bfloat16 has no such number
    layer.weight.stop_gradient = True
    with computing_in("bfloat16"):
        mapped = layer(rows)
    mapped.sum().backward()
    expected = exact(rows.numpy()) @ exact(layer.weight.numpy()) + layer.bias.numpy()
    assert_close(mapped.numpy(), expected, 7, 10)
    assert layer.weight.grad is None
    np.testing.assert_array_equal(layer.bias.grad.numpy(), np.full(4, 5, np.float32))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_a_network_in_bfloat16_is_near_that_in_float32(name, training):
    paddle.seed(0)
    model, batch, loss = NETWORKS[name]()
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    results = []
    for precision in ("float32", "bfloat16", "bfloat16"):
        model.set_state_dict(state)
        model.clear_gradients()
        model.train() if training else model.eval()
        with computing_in(precision), paddle.set_grad_enabled(training):
            outputs = model(batch)
        if training:
            loss(outputs).backward()
        gradients = [each.grad for each in model.parameters() if each.grad is not None]
        outputs = outputs | {f"gradient {number}": each for number, each in enumerate(gradients)}
        results.append({key: tensor.numpy() for key, tensor in outputs.items()})
    full, lowered, again = results
    assert full.keys() == lowered.keys()
    for key in full:
        np.testing.assert_array_equal(lowered[key], again[key], err_msg=key)
    assert any((result != lowered[key]).any() for key, result in full.items()), "nothing was rounded"
    gradients = [key for key in full if key.startswith("gradient")]
    for keys in (sorted(full.keys() - set(gradients)), gradients):
        for key in keys:
            size = max(np.abs(full[each]).max() for each in (keys if keys is gradients else [key]))
            difference = np.abs(full[key] - lowered[key]).max()
            assert difference <= rounding(ROUNDINGS, UNIT) * size, key
            assert np.isfinite(lowered[key]).all()
