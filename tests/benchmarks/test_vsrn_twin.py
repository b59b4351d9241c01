"""The PyTorch twin that VSRN races against computes what the original computes (shared fixtures)."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the twins need torch (requirements-bench.txt)")

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


class Case:
    """One released variant: the twin with the original's weights, its batch, and what must come out."""

    def __init__(self, variant: str, folder: Path) -> None:
        from _twin_vsrn import VSRN

        self.golden = dict(np.load(folder / f"{variant}.npz"))
        self.twin = VSRN(
            60,
            region_dim=48,
            dim=64,
            word_dim=32,
            caption_dim=32,
            caption_word_dim=24,
            max_len=16,
            dropout=0.0,
            flickr=variant == "f30k",
        )
        weights = np.load(folder / f"{variant}.weights.npz")
        self.twin.load_state_dict({name: torch.from_numpy(weights[name]) for name in weights})
        self.regions, self.tokens, self.lengths = (
            torch.from_numpy(self.golden[name]) for name in ("images", "captions", "lengths")
        )

    def check(self, values: object, name: str, atol: float = 1e-5) -> None:
        values = values.detach().numpy()
        np.testing.assert_allclose(values, self.golden[name], rtol=1e-4, atol=atol, err_msg=name)


@pytest.fixture(params=["coco", "f30k"])
def case(request: pytest.FixtureRequest, shared: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return Case(request.param, shared / "fixtures" / "vsrn")


def test_embeddings_and_captions(case: Case) -> None:
    case.twin.eval()
    image, reasoned = case.twin.img(case.regions)
    labels, mask = case.twin.cap.labels(case.tokens, case.lengths)
    case.check(image, "img_emb")
    case.check(reasoned, "gcn_regions")
    case.check(case.twin.txt(case.tokens, case.lengths), "cap_emb")
    case.check(labels, "caption_labels", atol=0)
    case.check(mask, "caption_masks", atol=0)
    case.check(case.twin.cap(reasoned, labels), "caption_logprobs")
    case.check(case.twin.cap.loss(reasoned, case.tokens, case.lengths), "caption_loss_evalfeats")


def test_training_losses_and_gradients(case: Case) -> None:
    ranking, caption = case.twin.train().losses(case.regions, case.tokens, case.lengths)
    case.check(ranking, "train_retrieval_loss")
    case.check(caption, "train_caption_loss")
    (ranking + caption).backward()
    norm = torch.nn.utils.get_total_norm([weight.grad for weight in case.twin.parameters()])
    case.check(norm, "grad_norm_unique")
    for name, weight in case.twin.named_parameters():
        # What batch norm subtracts again has a gradient of rounding noise, up to 2e-4 beside a norm of over
        # 100. The rest rounds in proportion to its largest value, and otherwise on another number of threads.
        largest = float(weight.grad.abs().max())
        atol = 4e-6 * float(norm) if name.endswith("W.0.bias") else max(1e-5, 3e-5 * largest)
        case.check(weight.grad, f"grad_{name}", atol=atol)
