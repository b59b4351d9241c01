"""The PyTorch twin of Oscar computes what the original does (shared fixtures), and ours computes the same."""

from pathlib import Path
from types import ModuleType

import numpy as np
import paddle
import pytest

from engine.weights.bert_names import from_original, original_names
from models.bert import BertShape
from models.losses.matching import match_cross_entropy
from models.oscar import Oscar

torch = pytest.importorskip("torch", reason="the twins need torch (requirements-bench.txt)")

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
WORDS, DIM, LAYERS, HEADS, INNER, POSITIONS, REGION_DIM = 74, 64, 2, 4, 128, 64, 54  # of the fixtures


@pytest.fixture
def twins(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import _twin_oscar

    return _twin_oscar


def twin_of(twins: ModuleType):
    return twins.Oscar(twins.Sizes(WORDS, DIM, LAYERS, HEADS, INNER, POSITIONS, REGION_DIM, dropout=0.0))


@pytest.fixture
def golden(shared: Path) -> dict[str, np.ndarray]:
    return dict(np.load(shared / "fixtures" / "oscar" / "oscar.npz"))


@pytest.fixture
def twin(twins: ModuleType, shared: Path):
    twin = twin_of(twins)
    weights = np.load(shared / "fixtures" / "oscar" / "oscar.weights.npz")
    twin.load_state_dict({name: torch.from_numpy(weights[name]) for name in weights})
    return twin


def training_batch(golden: dict[str, np.ndarray], number: int) -> tuple[list, np.ndarray]:
    names = ("input_ids", "token_type_ids", "attention_mask", "img_feats")
    inputs = [torch.from_numpy(golden[f"train_b{number}_{name}"]) for name in names]
    return inputs, golden[f"train_b{number}_labels"]


def test_logits_of_the_original(twin, golden) -> None:
    names = ("input_ids", "segment_ids", "attention_mask", "img_feats")
    logits = twin.eval()(*(torch.from_numpy(golden[name]) for name in names))
    np.testing.assert_allclose(logits.detach().numpy(), golden["logits"], atol=1e-5)


def test_training_steps_of_the_original(twins, twin, golden) -> None:
    optimizer = twins.AdamW(twin, rate=0.0)
    for number, rate in enumerate(golden["train_lrs_used"]):
        optimizer.rate = float(rate)
        loss = twins.train_step(twin, optimizer, *training_batch(golden, number))
        np.testing.assert_allclose(loss, golden["train_losses"][number], rtol=1e-4)
    for name, parameter in twin.named_parameters():
        found = parameter.detach().numpy()
        np.testing.assert_allclose(found, golden[f"after4.{name}"], atol=1e-4, err_msg=name)


def pairs_of_shared_images() -> dict[str, np.ndarray]:
    """Return six pairs of three images, with texts of 5 to 9 tokens, some of them the same."""
    random = np.random.default_rng(0)
    text_len = np.array([7, 5, 9, 7, 5, 6])
    token_ids = random.integers(1, WORDS, (6, 9)) * (np.arange(9) < text_len[:, None])
    token_ids[3], token_ids[4] = token_ids[0], token_ids[1]
    return {
        "token_ids": token_ids,
        "segment_ids": ((np.arange(9) > 3) & (np.arange(9) < text_len[:, None])).astype(np.int64),
        "text_len": text_len,
        "regions": random.random((3, 6, REGION_DIM), dtype=np.float32),
        "num_regions": np.array([4, 6, 2]),
        "image_row": np.array([0, 0, 1, 2, 2, 1]),
        "match": np.array([1, 0, 1, 1, 0, 0]),
    }


def test_ours_and_the_twin_score_and_learn_alike(twins) -> None:
    shape = BertShape(WORDS, DIM, LAYERS, HEADS, INNER, POSITIONS, region_dim=REGION_DIM, dropout=0.0)
    paddle.seed(0)
    ours, twin = Oscar(shape), twin_of(twins)
    for layer in ours.bert.layers:
        layer.attention_dropout = 0.0
    for parameter in ours.parameters():  # otherwise all pairs score nearly alike
        parameter.set_value(parameter + 0.2 * paddle.randn(parameter.shape))
    twin.load_weights({name: parameter.numpy() for name, parameter in ours.named_parameters()})
    arrays = pairs_of_shared_images()
    batch = {name: paddle.to_tensor(array) for name, array in arrays.items()}
    logits, theirs = ours(batch)["logits"], twin(*twins.pad(arrays, tokens=14, regions=8))
    assert logits.numpy().std(axis=0).min() > 0.1
    np.testing.assert_allclose(logits.numpy(), theirs.detach().numpy(), atol=1e-5)
    match_cross_entropy(logits, batch["match"]).backward()
    torch.nn.functional.cross_entropy(theirs, torch.from_numpy(arrays["match"])).backward()
    gradients = {name: parameter.grad.numpy() for name, parameter in twin.named_parameters()}
    used = []
    for name, parameter in ours.named_parameters():
        expected = from_original(name, gradients)
        atol = 1e-5 * max(1, np.abs(expected).max())
        np.testing.assert_allclose(parameter.grad.numpy(), expected, rtol=1e-4, atol=atol, err_msg=name)
        used += original_names(name)
    assert sorted(used) == sorted(gradients)
