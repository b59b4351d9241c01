"""When layers multiply in bfloat16, and what a processor without instructions for it is told."""

import paddle
import pytest

from config.errors import UserError
from models.kernels import onednn, precision
from models.kernels.precision import POSSIBLE, computing_in, is_lowered, of_inference, resolve, set_precision


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    monkeypatch.setattr(precision, "_of_inference", "float32")


def with_instructions(monkeypatch, there: bool) -> None:
    monkeypatch.setattr(onednn, "has_bfloat16", lambda: there)


def test_float32_is_the_rule():
    assert set_precision("float32") == of_inference() == "float32"
    with paddle.no_grad():
        assert not is_lowered()


def test_inference_is_lowered_and_training_is_not(monkeypatch):
    with_instructions(monkeypatch, True)
    assert set_precision("bfloat16") == of_inference() == "bfloat16"
    assert not is_lowered()
    with paddle.no_grad():
        assert is_lowered()
        with computing_in("float32"):
            assert not is_lowered()
            assert of_inference() == "float32"
        assert is_lowered()


def test_a_block_lowers_training():
    with computing_in("bfloat16"):
        assert is_lowered()
    assert not is_lowered()


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("quicker", [True, False])
def test_auto_takes_bfloat16_where_it_is_there_and_quicker(monkeypatch, there, quicker):
    """A processor may have instructions that take twice as long as those of float32."""
    with_instructions(monkeypatch, there)
    monkeypatch.setattr(precision, "quickest", lambda purpose: "bfloat16" if quicker else "float32")
    assert set_precision("auto") == ("bfloat16" if there and quicker else "float32")
    assert resolve(POSSIBLE, "key") == ("bfloat16" if there else "float32"), "as other features are"
    if there:
        assert set_precision("bfloat16") == "bfloat16", "what is asked for by name is done"


@pytest.mark.parametrize("library", [None, object()])
def test_bfloat16_without_instructions_is_one_line(monkeypatch, library):
    with_instructions(monkeypatch, False)
    monkeypatch.setattr(onednn, "library", lambda: library)
    reason = "no instructions" if library else "no oneDNN"
    with pytest.raises(UserError, match=rf"^RUNTIME.PRECISION: expected a CPU [^\n]*{reason}[^\n]*$"):
        set_precision("bfloat16")
