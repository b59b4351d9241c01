"""Optimizers against their formulae, groups, clipping, and state that survives to the bit."""

import numpy as np
import paddle
import pytest

from config.default import default_config
from solvers.optimizer import build_optimizer, optimizer_state, restore_optimizer_state
from tests.closeness import assert_close, largest

NAMES = ["adam", "adamw", "bert_adamw", "sgd", "momentum"]


class Small(paddle.nn.Layer):
    """A matrix and a vector on each side, and a temperature, named as in a dual encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.image_encoder = paddle.nn.Linear(3, 2)
        self.text_encoder = paddle.nn.Linear(3, 2)
        self.temperature = self.create_parameter([], default_initializer=paddle.nn.initializer.Constant(0.5))

    def start(self, seed: int = 0) -> "Small":
        random = np.random.RandomState(seed)
        for parameter in self.parameters():
            parameter.set_value(np.asarray(random.randn(*parameter.shape), dtype="float32"))
        return self


def config(**settings):
    cfg = default_config()
    for key, value in ({"LR": 0.1, "CLIP": "none"} | settings).items():
        cfg.merge_from_list([f"OPTIMIZATION.{key}", value])
    return cfg


def gradients(step: int) -> dict[str, np.ndarray]:
    random = np.random.RandomState(100 + step)
    return {
        name: np.asarray(random.randn(*parameter.shape), dtype="float32")
        for name, parameter in Small().named_parameters()
    }


def train(model: Small, optimizer: paddle.optimizer.Optimizer, steps: range) -> None:
    for step in steps:
        given = gradients(step)
        loss = sum((parameter * given[name]).sum() for name, parameter in model.named_parameters())
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()


def values(model: Small) -> dict[str, np.ndarray]:
    return {name: parameter.numpy().copy() for name, parameter in model.named_parameters()}


def expected_values(kind: str, decay: float, steps: int) -> dict[str, np.ndarray]:
    """Recompute the optimizers of the literature in float64; `decay` applies to matrices alone."""
    result = {}
    for name, start in values(Small().start()).items():
        weight = start.astype(np.float64)
        first, second = np.zeros_like(weight), np.zeros_like(weight)
        own_decay = decay if start.ndim > 1 else 0.0
        for step in range(steps):
            gradient = gradients(step)[name].astype(np.float64)
            if kind in ("adamw", "bert_adamw"):
                weight = weight - 0.1 * own_decay * weight
            else:
                gradient = gradient + own_decay * weight
            if kind in ("adam", "adamw", "bert_adamw"):
                first = 0.9 * first + 0.1 * gradient
                second = 0.999 * second + 0.001 * gradient**2
                corrected = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
                weight = weight - 0.1 * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
            else:
                first = (0.9 if kind == "momentum" else 0.0) * first + gradient
                weight = weight - 0.1 * first
        result[name] = weight
    return result


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("kind", NAMES)
def test_four_steps_follow_the_formula_and_decay_spares_vectors(kind: str, decay: float) -> None:
    model = Small().start()
    optimizer = build_optimizer(config(OPTIMIZER=kind, WEIGHT_DECAY=decay), model.named_parameters())
    train(model, optimizer, range(4))
    for name, expected in expected_values(kind, decay, steps=4).items():
        # Of the momenta's quotient a step takes a tenth; momentum and its sum grow fourfold.
        assert_close(values(model)[name], expected, 4 * 20, 4 * largest([expected]), err_msg=name)


def test_each_encoder_has_its_own_rate() -> None:
    model = Small().start()
    before = values(model)
    cfg = config(OPTIMIZER="sgd", IMAGE_LR_SCALE=0.5, TEXT_LR_SCALE=0.0)
    train(model, build_optimizer(cfg, model.named_parameters()), range(1))
    given = gradients(0)
    for name, after in values(model).items():
        scale = {"image_encoder": 0.5, "text_encoder": 0.0, "temperature": 1.0}[name.split(".")[0]]
        assert_close(after, before[name] - 0.1 * scale * given[name], 3, err_msg=name)


def test_the_rate_is_set_before_each_step() -> None:
    model = Small().start()
    before = values(model)
    optimizer = build_optimizer(config(OPTIMIZER="sgd"), model.named_parameters())
    optimizer.set_lr(0.01)
    train(model, optimizer, range(1))
    moved = before["temperature"] - values(model)["temperature"]
    assert_close(moved, 0.01 * gradients(0)["temperature"], 3, before["temperature"])


def test_the_norm_is_clipped_over_all_groups_together() -> None:
    model = Small().start()
    before = values(model)
    cfg = config(OPTIMIZER="sgd", CLIP="norm", CLIP_MAX_NORM=0.5, WEIGHT_DECAY=0.0, IMAGE_LR_SCALE=0.5)
    train(model, build_optimizer(cfg, model.named_parameters()), range(1))
    given = gradients(0)
    norm = sum(float((gradient**2).sum()) for gradient in given.values()) ** 0.5
    for name, after in values(model).items():
        rate = 0.05 if name.startswith("image_encoder") else 0.1
        count = sum(gradient.size for gradient in given.values())
        assert_close(after, before[name] - rate * given[name] * 0.5 / norm, count + 4, err_msg=name)


def test_values_are_clipped_one_by_one() -> None:
    model = Small().start()
    before = values(model)
    cfg = config(OPTIMIZER="sgd", CLIP="value", CLIP_MAX_NORM=0.3)
    train(model, build_optimizer(cfg, model.named_parameters()), range(1))
    for name, after in values(model).items():
        expected = before[name] - 0.1 * np.clip(gradients(0)[name], -0.3, 0.3)
        assert_close(after, expected, 3, err_msg=name)


def test_frozen_parameters_are_left_alone() -> None:
    model = Small().start()
    model.image_encoder.weight.stop_gradient = True
    before = values(model)
    optimizer = build_optimizer(config(), model.named_parameters())
    train(model, optimizer, range(1))
    np.testing.assert_array_equal(values(model)["image_encoder.weight"], before["image_encoder.weight"])
    assert not any(
        "image_encoder.weight" in name for name in optimizer_state(optimizer, model.named_parameters())
    )


@pytest.mark.parametrize("kind", NAMES)
def test_state_restored_into_another_optimizer_continues_to_the_bit(kind: str) -> None:
    cfg = config(OPTIMIZER=kind, WEIGHT_DECAY=0.01, CLIP="norm")
    straight = Small().start()
    optimizer = build_optimizer(cfg, straight.named_parameters())
    train(straight, optimizer, range(3))
    weights, state = values(straight), optimizer_state(optimizer, straight.named_parameters())
    train(straight, optimizer, range(3, 6))

    resumed = Small().start(seed=9)  # in the same process, where Paddle's own names have moved on
    for name, parameter in resumed.named_parameters():
        parameter.set_value(weights[name])
    second = build_optimizer(cfg, resumed.named_parameters())
    restore_optimizer_state(second, resumed.named_parameters(), state)
    train(resumed, second, range(3, 6))

    for name, expected in values(straight).items():
        np.testing.assert_array_equal(values(resumed)[name], expected, err_msg=name)
    ends = [
        optimizer_state(optimizer, straight.named_parameters()),
        optimizer_state(second, resumed.named_parameters()),
    ]
    assert ends[0].keys() == ends[1].keys()
    for name in ends[0]:
        np.testing.assert_array_equal(ends[0][name], ends[1][name], err_msg=name)


def test_state_is_named_after_the_parameters() -> None:
    model = Small().start()
    optimizer = build_optimizer(config(), model.named_parameters())
    names = set(optimizer_state(optimizer, model.named_parameters()))
    kinds = ("moment1", "moment2", "beta1_pow_acc", "beta2_pow_acc")
    assert names == {f"{kind}/{name}" for kind in kinds for name, _ in model.named_parameters()}


def test_state_that_does_not_fit_is_refused_by_name() -> None:
    model = Small().start()
    optimizer = build_optimizer(config(), model.named_parameters())
    state = optimizer_state(optimizer, model.named_parameters())
    missing = {name: value for name, value in state.items() if name != "moment1/temperature"}
    with pytest.raises(ValueError, match="lacks entry moment1/temperature"):
        restore_optimizer_state(optimizer, model.named_parameters(), missing)
    with pytest.raises(ValueError, match="unexpected entry moment1/other"):
        restore_optimizer_state(optimizer, model.named_parameters(), state | {"moment1/other": np.zeros(1)})
    misshapen = state | {"moment2/text_encoder.weight": np.zeros([2, 3], "float32")}
    with pytest.raises(ValueError, match=r"text_encoder.weight: expected shape \[3, 2\], got \[2, 3\]"):
        restore_optimizer_state(optimizer, model.named_parameters(), misshapen)


def test_an_unknown_name_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match="momentum.*'lion'"):
        build_optimizer(config(OPTIMIZER="lion"), Small().named_parameters())
    with pytest.raises(ValueError, match="value.*'both'"):
        build_optimizer(config(CLIP="both"), Small().named_parameters())


def test_a_cnn_has_a_rate_of_its_own() -> None:
    class Pixels(paddle.nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.cnn = paddle.nn.Linear(1, 1)
            self.head = paddle.nn.Linear(1, 1)

    model = Small()
    model.image_encoder, model.cnn = Pixels(), paddle.nn.Linear(1, 1)
    named = dict(model.named_parameters())
    build_optimizer(config(IMAGE_LR_SCALE=0.5, CNN_LR_SCALE=0.1), named.items())
    scales = {name: parameter.optimize_attr["learning_rate"] for name, parameter in named.items()}
    assert scales["cnn.weight"] == pytest.approx(0.1)
    assert scales["image_encoder.cnn.weight"] == pytest.approx(0.05)
    assert scales["image_encoder.head.weight"] == 0.5
    assert scales["text_encoder.weight"] == 1.0
