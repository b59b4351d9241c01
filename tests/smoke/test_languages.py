"""Captions in any language: from the command line they train, evaluate and are found."""

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = {  # subjects, verbs and places, and how they make a sentence
    "Chinese": (
        ["男孩", "女孩", "黑狗"],
        ["跑步", "看书", "游泳"],
        ["公园", "海边", "雪地"],
        "一个{0}在{2}{1}。",
    ),
    "Japanese": (["少年", "少女", "黒い犬"], ["走る", "眠る", "泳ぐ"], ["公園", "海", "雪"], "{0}が{2}で{1}"),
    "Thai": (
        ["เด็กชาย", "เด็กหญิง", "หมาดำ"],
        ["วิ่ง", "นอน", "ว่ายน้ำ"],
        ["สวน", "ทะเล", "หิมะ"],
        "{0}กำลัง{1}ใน{2}",
    ),
    "Korean": (
        ["소년이", "소녀가", "검은 개가"],
        ["달린다", "잔다", "논다"],
        ["공원에서", "바다에서", "눈에서"],
        "{0} {2} {1}",
    ),
    "Hindi": (
        ["लड़का", "लड़की", "काला कुत्ता"],
        ["दौड़ता है", "सोता है", "तैरता है"],
        ["पार्क में", "समुद्र में", "बर्फ़ में"],
        "{0} {2} {1}",
    ),
    "Arabic": (
        ["وَلَدٌ", "بِنْتٌ", "كَلْبٌ أَسْوَدُ"],
        ["يَجْرِي", "يَنَامُ", "يَسْبَحُ"],
        ["حَدِيقَةٍ", "بَحْرٍ", "ثَلْجٍ"],
        "{0} {1} فِي {2}",
    ),
    "Vietnamese": (
        ["cậu bé", "cô gái", "chó đen"],
        ["chạy", "ngủ", "bơi"],
        ["công viên", "biển", "tuyết"],
        "{0} {1} ở {2}",
    ),
}
TOGETHER = {"Chinese", "Japanese", "Thai"}


def sentences_of(language: str) -> list[str]:
    who, does, where, order = LANGUAGES[language]
    made = [order.format(a, b, c) for a in who for b in does for c in where]
    return [made[row] for row in np.random.default_rng(0).permutation(len(made))]


def write(folder: Path, splits: dict[str, list[str]]) -> list[str]:
    """Write a precomp folder; return the options of a tiny run on it."""
    folder.mkdir()
    random = np.random.default_rng(1)
    for split, captions in splits.items():
        np.save(folder / f"{split}_ims.npy", random.normal(size=(len(captions), 6)).astype(np.float32))
        (folder / f"{split}_caps.txt").write_text("\n".join(captions) + "\n", encoding="utf-8")
    return [
        *("--cfg_file", str(ROOT / "configs/rsicd/vsepp.yaml"), f"DATASET.DATA_DIR={folder}"),
        *(f"OUTPUT.CHECKPOINT_DIR={folder}", "OUTPUT.SAVE_NAME=run", "MONITOR.VISUALDL=false"),
        *("INPUT.VOCAB_THRESHOLD=1", "INPUT.IMG_FEATURE_DIM=6", "MODEL.EMBED_DIM=8", "MODEL.WORD_DIM=8"),
        *("OPTIMIZATION.EPOCHS=1", "OPTIMIZATION.BATCH_SIZE=9", "RUNTIME.DEVICE=cpu"),
    ]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_words(language: str, run_quickly: Callable, tmp_path: Path) -> None:
    made = sentences_of(language)
    splits = {"train": made[:18], "dev": made[18:22], "test": made[22:]}
    other_form = {
        name: [unicodedata.normalize("NFD", text) for text in some] for name, some in splits.items()
    }
    options = write(tmp_path / "data", {**other_form, "train": splits["train"]})
    trained = run_quickly("train_retrieval", *options, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert ("runs words together" in trained.stdout) == (language in TOGETHER)
    assert "warning" not in trained.stdout
    assert "4 different sentences" in trained.stdout
    run = tmp_path / "data/run"
    words = json.loads((run / "vocab.json").read_text(encoding="utf-8"))
    assert words["tokenizer"] == ("characters" if language in TOGETHER else "simple")
    measured = run_quickly("eval_retrieval", "--cfg_file", run / "config.yaml", cwd=tmp_path)
    assert "5 captions (5 distinct sentences)" in measured.stdout
    search = "search_retrieval", "--cfg_file", run / "config.yaml", "--top_k", "1", "--text"
    both = [
        run_quickly(*search, unicodedata.normalize(form, made[0]), cwd=tmp_path) for form in ("NFC", "NFD")
    ]
    hits = [[line for line in done.stdout.splitlines() if line.startswith("  1 ")] for done in both]
    assert hits[0] == hits[1] != [], both[0].stderr


def test_unknown_words_are_told_before_training_and_in_evaluation(
    run_quickly: Callable, tmp_path: Path
) -> None:
    splits = {"train": ["a dog runs"] * 9, "dev": ["a cat sleeps"] * 4, "test": ["a dog eats"] * 4}
    options = write(tmp_path / "data", splits)
    trained = run_quickly("train_retrieval", *options, cwd=tmp_path)
    lines = trained.stdout.splitlines()
    place = next(
        place for place, line in enumerate(lines) if line.startswith("warning: 67% of the words of dev")
    )
    assert place < next(place for place, line in enumerate(lines) if line.startswith("validation"))
    assert "1 different sentences, 66.7% of words unknown" in trained.stdout
    measured = run_quickly("eval_retrieval", "--cfg_file", tmp_path / "data/run/config.yaml", cwd=tmp_path)
    assert "warning: 33% of the words of test are not in the vocabulary" in measured.stdout


def test_names_of_pictures_in_two_forms_are_the_same(run_quickly: Callable, tmp_path: Path) -> None:
    names = ["café.jpg", "한강.jpg", "plain.jpg"]
    rows = "".join(
        f"{name},a river,{split}\n" for name, split in zip(names, ("train", "train", "dev"), strict=True)
    )
    options = write(tmp_path / "data", {})
    (tmp_path / "data/c.csv").write_text("image,caption,split\n" + rows, encoding="utf-8")
    with h5py.File(tmp_path / "data/f.h5", "w") as file:
        file["features"] = np.zeros((3, 6), np.float32)
        file["ids"] = [unicodedata.normalize("NFD", name) for name in names]
    options += ["DATASET.FORMAT=csv", "DATASET.CAPTION_FILE=c.csv", "DATASET.FEAT_FILE=f.h5"]
    trained = run_quickly("train_retrieval", *options, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert "train: 2 images" in trained.stdout
