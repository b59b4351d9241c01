"""Published weights are found in files and packages, and named as ours are."""

import sys
from pathlib import Path

import numpy as np
import pytest

from config.errors import UserError
from engine.weights.published_cnn import locate_weights, read_published_cnn
from tests.smoke.test_convert_weights_cnn import write_pth


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of an installed package whose code must not run."""
    folder = tmp_path / "some_weights"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise SystemExit('it was run')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def test_a_packages_only_file_is_found_without_running_its_code(package: Path) -> None:
    (package / "models").mkdir()
    (package / "models" / "net-1234.pth").write_bytes(b"")
    assert locate_weights("package:some_weights") == package / "models" / "net-1234.pth"
    assert "some_weights" not in sys.modules


def test_a_path_stands_for_itself() -> None:
    assert locate_weights("data/package.safetensors") == Path("data/package.safetensors")


def test_missing_packages_and_several_files_are_one_line(package: Path) -> None:
    with pytest.raises(UserError, match="0 files of weights in .*some_weights"):
        locate_weights("package:some_weights")
    for name in ("a.pth", "b.safetensors"):
        (package / name).write_bytes(b"")
    with pytest.raises(UserError, match="2 files of weights .* name the file itself"):
        locate_weights("package:some_weights")
    for name in ("no_such_package", "../some_weights", "os", ""):
        with pytest.raises(UserError, match=f"package:{name}: no such Python package is installed"):
            locate_weights(f"package:{name}")


def test_private_names_counters_and_linear_layers_become_ours(tmp_path: Path) -> None:
    state = {
        "module._blocks.3._bn0.running_mean": np.arange(2, dtype=np.float32),
        "module._blocks.3._bn0.num_batches_tracked": np.zeros(1, np.float32),
        "module._fc.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    }
    found = read_published_cnn(write_pth(tmp_path / "net.pth", state))
    assert list(found) == ["blocks.3.bn0._mean", "fc.weight"]
    np.testing.assert_array_equal(found["fc.weight"], np.arange(6).reshape(2, 3).T)
