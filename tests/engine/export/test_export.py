"""An export whose graphs are not those of the model leaves nothing behind."""

from pathlib import Path

import numpy as np
import paddle
import pytest

from config.errors import UserError
from config.load import load_config
from datasets.words.vocabulary import Vocabulary
from engine.export.export import export_model
from engine.runs.checkpoint import save_checkpoint
from models.build import build_model
from serving.bundle.bundle import Bundle

ROOT = Path(__file__).resolve().parents[3]
CAPTIONS = ["a red dog", "a dog", "the blue cat", "a cat", "the red sun", "a sun", "a dog runs", "a blue sun"]


@pytest.fixture
def cfg(tmp_path):
    """Return the configuration of an untrained model of eight vectors with a caption each."""
    features = np.random.default_rng(0).standard_normal((8, 6)).astype(np.float32)
    np.save(tmp_path / "dev_ims.npy", features)
    (tmp_path / "dev_caps.txt").write_text("".join(f"{caption}\n" for caption in CAPTIONS))
    keys = {
        "DATASET.DATA_DIR": tmp_path,
        "DATASET.CAPTIONS_PER_IMAGE": 1,
        "DATASET.DEV": "dev",
        "INPUT.IMG_FEATURE_DIM": 6,
        "INPUT.TOKENIZER": "simple",
        "MODEL.EMBED_DIM": 16,
        "MODEL.WORD_DIM": 8,
        "OUTPUT.CHECKPOINT_DIR": tmp_path,
        "OUTPUT.SAVE_NAME": "run",
    }
    cfg = load_config(
        ROOT / "configs" / "f8k" / "vsepp.yaml", [f"{key}={value}" for key, value in keys.items()]
    )
    words = Vocabulary.build(CAPTIONS, "simple", 1, "vsepp")
    paddle.seed(0)
    model = build_model(cfg, len(words))
    arrays = {name: tensor.numpy() for name, tensor in model.named_parameters()}
    state = {"model": "vsepp", "config": {}, "progress": {"step": 1}}
    save_checkpoint(tmp_path / "run" / "best", arrays, {}, state, words.to_text())
    return cfg


class Liar(Bundle):
    """A bundle whose image embeddings are all the same."""

    def encode_features(self, features, counts=None):
        return np.full_like(super().encode_features(features, counts), 0.25)


def test_graphs_of_another_model_are_refused(cfg, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="differ from the model by .* ranks changed"):
        export_model(cfg, tmp_path / "bundle", "onnx", "float32", 0.5, Liar.open)
    with pytest.raises(UserError, match="points of mean recall in int8"):
        export_model(cfg, tmp_path / "bundle", "onnx", "int8", 0.5, Liar.open)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_bundle_states_what_it_needs(cfg, tmp_path):
    description, model = export_model(cfg, tmp_path / "bundle", "onnx", "float32", 0.5, Bundle.open)
    assert model.startswith("vsepp (")
    assert description["embedding"] == {"width": 16, "measure": "cosine", "abs": False}
    assert description["image"] == {"reads": "features", "width": 6}
    assert description["text"]["tokenizer"] == "simple" and description["text"]["lower"] is True
    text = description["graphs"]["text"]
    assert text["inputs"][0] == {"name": "token_ids", "type": "int64", "shape": ["batch", "length"]}
    assert text["outputs"] == [{"name": "embedding", "type": "float32", "shape": ["batch", 16]}]
    bundle = Bundle.open(tmp_path / "bundle")
    assert {name: value for name, value in description.items() if name != "checksum"} == bundle.description
