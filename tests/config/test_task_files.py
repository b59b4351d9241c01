"""The task files that are shipped under configs/ load, and carry the originals' settings."""

from pathlib import Path

import pytest

from config.load import load_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TASK_FILES = sorted(CONFIGS.rglob("*.yaml"))
COMMON = {
    "MODEL.MEASURE": "cosine",
    "LOSS.NAME": "hinge",
    "LOSS.MARGIN": 0.2,
    "OPTIMIZATION.CLIP_MAX_NORM": 2.0,
}
VSEPP = COMMON | {
    "MODEL.NAME": "vsepp",
    "MODEL.EMBED_DIM": 1024,
    "MODEL.WORD_DIM": 300,
    "INPUT.TOKENIZER": "nltk",
    "INPUT.VOCAB_THRESHOLD": 4,
    "LOSS.HARD_NEGATIVE": True,
    "OPTIMIZATION.LR": 2e-4,
    "OPTIMIZATION.BATCH_SIZE": 128,
    "OPTIMIZATION.LR_STEP_EPOCHS": 15.0,
    "OPTIMIZATION.EPOCHS": 30,
    "MONITOR.EVAL_STEP": 500,
}
VSE = COMMON | {
    "MODEL.NAME": "vse",
    "MODEL.EMBED_DIM": 1000,
    "MODEL.WORD_DIM": 1000,
    "INPUT.TOKENIZER": "whitespace",
    "INPUT.VOCAB_LAYOUT": "vse",
    "INPUT.MAX_SEQ_LEN": 100,
    "INPUT.LONG_CAPTIONS": "drop",
    "LOSS.HARD_NEGATIVE": False,
    "OPTIMIZATION.BATCHING": "same_length",
    "OPTIMIZATION.LR_SCHEDULER": "constant",
    "MONITOR.EVAL_STEP": 100,
}
ORIGINALS = {
    "f8k/vsepp.yaml": VSEPP,
    "f30k/vsepp.yaml": VSEPP,
    "coco/vsepp.yaml": VSEPP | {"DATASET.TEST": "testall", "EVAL.FOLDS": 5},
    "f8k/vse.yaml": VSE | {"OPTIMIZATION.LR": 0.001, "OPTIMIZATION.BATCH_SIZE": 128},
    "f30k/vse.yaml": VSE | {"OPTIMIZATION.LR": 0.01, "OPTIMIZATION.BATCH_SIZE": 200},
    "coco/vse.yaml": VSE | {"OPTIMIZATION.LR": 0.01, "OPTIMIZATION.BATCH_SIZE": 300, "EVAL.FOLDS": 5},
}


@pytest.mark.parametrize("path", TASK_FILES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_each_shipped_task_file_loads_and_says_what_it_is(path):
    load_config(path)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert "../shared" not in text, "a task file names data where a user has it: data/..."


@pytest.mark.parametrize("name", ORIGINALS)
def test_the_originals_settings_are_carried(name):
    cfg = load_config(CONFIGS / name)
    data, family = Path(name).parent.name, Path(name).stem
    of_the_data = {
        "DATASET.DATA_DIR": f"data/{data}_precomp",
        "INPUT.IMG_FEATURE_DIM": 4096,
        "OUTPUT.SAVE_NAME": f"{data}_{family}",
    }
    for full_key, expected in (ORIGINALS[name] | of_the_data).items():
        section, key = full_key.split(".")
        assert cfg[section][key] == expected, full_key
