"""The task files that are shipped under configs/ load, and carry the originals' settings."""

from pathlib import Path

import pytest

from config.load import load_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TASK_FILES = sorted(set(CONFIGS.rglob("*.yaml")) - set((CONFIGS / "backbones").iterdir()))
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
VINVL = {
    "INPUT.MAX_REGION": 70,
    "INPUT.MAX_SEQ_LEN": 70,
    "INPUT.IMG_FEATURE_DIM": 2054,
    "INPUT.ADD_OD_LABEL": True,
    "INPUT.ATT_MASK_TYPE": "CLR",
    "INPUT.NUM_CAPTIONS_PER_IMAGE_TRN": 5,
    "LOSS.NAME": "match_cross_entropy",
    "OPTIMIZATION.OPTIMIZER": "bert_adamw",
    "OPTIMIZATION.LR": 2e-5,
    "OPTIMIZATION.BATCH_SIZE": 32,
    "OPTIMIZATION.WEIGHT_DECAY": 0.05,
    "OPTIMIZATION.CLIP": "norm",
    "OPTIMIZATION.CLIP_MAX_NORM": 1.0,
    "OPTIMIZATION.LR_SCHEDULER": "linear",
    "OPTIMIZATION.EPOCHS": 30,
    "OUTPUT.SAVE_FREQ": 1,
    "MONITOR.PRINT_STEP": 100,
    "MONITOR.EVAL_FREQ": 1,
    "NEGATIVES.KIND": "random",
    "MISC.SEED": 123,
    "MISC.NUM_WORKERS": 8,
}
VINVL_TASKS = {
    "retrieval_train.yaml": {
        "INPUT.NUM_CAPTIONS_PER_IMAGE_DEV": 20,
        "EVAL.EVAL_CROSS_IMAGE": False,
        "EVAL.EVAL_CAPTION_INDEX_FILE": "minival_caption_indexs_top20.json",
    },
    "retrieval_test.yaml": {
        "EVAL.EVAL_CROSS_IMAGE": True,
        "EVAL.EVAL_CAPTION_INDEX_FILE": "",
        "EVAL.EVAL_IMG_KEYS_FILE": "test_img_keys_1k.tsv",
    },
}
METRIC = {
    "MODEL.NAME": "cnn",
    "MODEL.CNN": "resnet50",
    "MODEL.CNN_DIM": 0,
    "INPUT.CROP_SIZE": 224,
    "INPUT.RESIZE": 224,
    "INPUT.CROP_AREA": (0.08, 1.0),
    "OPTIMIZATION.OPTIMIZER": "momentum",
    "OPTIMIZATION.MOMENTUM": 0.9,
    "OPTIMIZATION.WEIGHT_DECAY": 1e-4,
    "OPTIMIZATION.EPOCHS": 30,
    "OPTIMIZATION.CLIP": "none",
}
SECOND_STAGE = METRIC | {
    "LOSS.MARGIN": 0.1,
    "OPTIMIZATION.BATCH_SIZE": 60,
    "OPTIMIZATION.LR": 1e-4,
    "OPTIMIZATION.LR_SCHEDULER": "constant",
    "PRETRAINED.DIR": "out/sop_softmax/last",
}
STAGES = {
    "softmax": METRIC
    | {
        "LOSS.NAME": "softmax",
        "LOSS.LABEL_SMOOTHING": 0.1,
        "OPTIMIZATION.BATCH_SIZE": 80,
        "OPTIMIZATION.LR": 0.01,
        "OPTIMIZATION.LR_SCHEDULER": "multistep",
        "OPTIMIZATION.LR_MILESTONES": (12.0, 24.0),
        "OPTIMIZATION.LR_GAMMA": 0.1,
    },
    "triplet": SECOND_STAGE | {"LOSS.NAME": "triplet"},
    "quadruplet": SECOND_STAGE | {"LOSS.NAME": "margin_sample_mining", "OPTIMIZATION.SAMPLES_PER_CLASS": 2},
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
    check_values(cfg, ORIGINALS[name] | of_the_data)


@pytest.mark.parametrize("name", VINVL_TASKS)
def test_the_task_files_of_vinvl_carry_its_settings(name):
    check_values(load_config(CONFIGS / name), VINVL | VINVL_TASKS[name])


@pytest.mark.parametrize("stage", STAGES)
def test_the_stages_of_metric_learning_carry_the_originals_settings(stage):
    check_values(load_config(CONFIGS / "sop" / f"{stage}.yaml"), STAGES[stage])


@pytest.mark.parametrize("name", ["f30k/vsepp_resnet152", "f30k/vsepp_vgg19", "coco/vsepp_resnet152"])
def test_vsepp_from_pixels_is_first_frozen_then_trained_at_a_tenth_of_the_rate(name):
    frozen, tuned = (load_config(CONFIGS / f"{name}{stage}.yaml") for stage in ("", "_finetune"))
    crops = {"INPUT.CROP_SIZE": 224, "INPUT.RESIZE": 256, "INPUT.CROP_AREA": (0.08, 1.0)}
    check_values(frozen, crops | {"MODEL.CNN_FREEZE_EPOCHS": -1, "OPTIMIZATION.LR": 2e-4})
    check_values(tuned, crops | {"MODEL.CNN_FREEZE_EPOCHS": 0, "OPTIMIZATION.LR": 2e-5})
    assert f"out/{frozen.OUTPUT.SAVE_NAME}/best" == tuned.PRETRAINED.DIR
    assert name.startswith("coco") == frozen.DATASET.USE_RESTVAL


def check_values(cfg, values):
    for full_key, expected in values.items():
        section, key = full_key.split(".")
        assert cfg[section][key] == expected, full_key
