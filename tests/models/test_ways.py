"""A network's results and gradients are the same with MKL, without it, and by Paddle's own operations."""

import paddle
import pytest

from models.losses.matching import match_cross_entropy
from models.oscar import Oscar
from tests.closeness import assert_close, largest
from tests.models import test_dual_encoder, test_oscar, test_vsrn
from tests.other_processors import WAYS


def vse(name):
    model = test_dual_encoder.build_model(test_dual_encoder.small_config(MODEL__NAME=name), vocab_size=30)
    return model, test_dual_encoder.small_batch(5), lambda outputs: (outputs["scores"] ** 2).sum()


def vsrn():
    def loss(outputs):
        return (outputs["scores"] ** 2).sum() + (outputs["word_logits"] ** 2).mean()

    return test_vsrn.model_of(), test_vsrn.batch_of(), loss


def oscar():
    match = paddle.to_tensor([1, 0, 0, 1])
    return (
        Oscar(test_oscar.shape_of(), attention="CR"),
        test_oscar.batch_of(),
        lambda outputs: match_cross_entropy(outputs["logits"], match),
    )


NETWORKS = {"vse": lambda: vse("vse"), "vsepp": lambda: vse("vsepp"), "vsrn": vsrn, "oscar": oscar}
# There and back: six words by a recurrence of 16, four blocks or two layers, and what follows.
ROUNDINGS = 2 * (9 * 60 + 4 * 100 + 50)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_a_network_is_the_same_on_every_processor(monkeypatch, name, training):
    paddle.seed(0)
    model, batch, loss = NETWORKS[name]()
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    found = {}
    for way, switch in WAYS.items():
        model.set_state_dict(state)
        model.clear_gradients()
        with monkeypatch.context() as switched:
            switch(switched)
            if training:
                model.train()
                outputs = model(batch)
                loss(outputs).backward()
                parameters = [each for each in model.parameters() if not each.stop_gradient]
                gradients = [each.grad.numpy() for each in parameters]
            else:
                model.eval()
                with paddle.no_grad():
                    outputs, gradients = model(batch), []
        found[way] = {key: tensor.numpy() for key, tensor in outputs.items()}, gradients
    results, gradients = found.pop("as here")
    for way, (others, other_gradients) in found.items():
        for key, result in results.items():
            assert_close(others[key], result, ROUNDINGS, err_msg=(way, key))
        for gradient, other in zip(gradients, other_gradients, strict=True):
            assert_close(other, gradient, ROUNDINGS, largest(gradients), err_msg=way)
