"""Every mistake is one line: where, which key, what was expected, what came, and what was meant."""

import pytest

from config.errors import UserError
from config.load import load_config

# The task file's text, and fragments of the message (which begins with the file's path).
FILE_MISTAKES = {
    "unknown section": (
        "MODLE:\n  NAME: vse\n",
        ["line 1: MODLE:", "no such section", "did you mean MODEL?"],
    ),
    "section in lower case": ("model:\n  NAME: vse\n", ["line 1: model:", "did you mean MODEL?"]),
    "unlike any section": ("XYZ:\n  NAME: vse\n", ["XYZ: there is no such section", "show_config.py"]),
    "unknown key": (
        "MODEL:\n  EMBED_DIMS: 5\n",
        ["line 2: MODEL.EMBED_DIMS:", "did you mean MODEL.EMBED_DIM?"],
    ),
    "key in lower case": (
        "MODEL:\n  embed_dim: 5\n",
        ["line 2: MODEL.embed_dim:", "did you mean MODEL.EMBED_DIM?"],
    ),
    "key with a dash": ("MODEL:\n  EMBED-DIM: 5\n", ["did you mean MODEL.EMBED_DIM?"]),
    "key of another section": ("MODEL:\n  LR: 1\n", ["MODEL.LR:", "did you mean OPTIMIZATION.LR?"]),
    "key of two other sections": (
        "MODEL:\n  BATCH_SIZE: 1\n",
        ["did you mean", "EVAL.BATCH_SIZE", " or ", "OPTIMIZATION.BATCH_SIZE"],
    ),
    "key without a section": (
        "LR: 1\n",
        ["line 1: LR: there is no such key", "did you mean OPTIMIZATION.LR?"],
    ),
    "key with a dot": ("OPTIMIZATION.LR: 1\n", ["expected LR: indented under OPTIMIZATION:"]),
    "unlike any key": ("MODEL:\n  XYZ: 1\n", ["MODEL.XYZ: there is no such key", "show_config.py"]),
    "text for a number": (
        "OPTIMIZATION:\n  LR: fast\n",
        ["OPTIMIZATION.LR: expected a number above 0", 'got "fast"'],
    ),
    "number in quotes": ("OPTIMIZATION:\n  LR: '1e-4'\n", ['got "1e-4"', "remove the quotes"]),
    "fraction for a whole number": ("MODEL:\n  EMBED_DIM: 5.0\n", ["expected a whole number", "got 5.0"]),
    "truth value for a whole number": (
        "MODEL:\n  EMBED_DIM: true\n",
        ["expected a whole number", "got true"],
    ),
    "truth value for a number": ("LOSS:\n  MARGIN: true\n", ["expected a number", "got true"]),
    "number for a truth value": ("MODEL:\n  USE_ABS: 1\n", ["MODEL.USE_ABS: expected true or false, got 1"]),
    "yes for a truth value": ("MODEL:\n  USE_ABS: yes\n", ["expected true or false", 'got "yes"']),
    "number for text": ("DATASET:\n  NAME: 8\n", ["expected text, got 8", "put it in quotes"]),
    "nothing for text": (
        "DATASET:\n  NAME:\n",
        ["line 2: DATASET.NAME: expected text, got nothing", 'write ""'],
    ),
    "nothing for a number": ("OPTIMIZATION:\n  LR:\n", ["expected a number above 0, got nothing"]),
    "list for text": ("DATASET:\n  NAME: [a]\n", ['expected text, got ["a"]']),
    "mapping for text": ("DATASET:\n  NAME: {A: b}\n", ["expected text, got a mapping"]),
    "text for a list": (
        "INPUT:\n  VOCAB_SPLITS: train\n",
        ["expected a list of texts", 'got "train"', "brackets"],
    ),
    "wrong element": (
        "OPTIMIZATION:\n  LR_MILESTONES: [1, x]\n",
        ["LR_MILESTONES: expected a list of numbers", 'got the element "x"'],
    ),
    "number among texts": ("INPUT:\n  VOCAB_SPLITS: [train, 5]\n", ["got the element 5", "put it in quotes"]),
    "list in a list": ("INPUT:\n  VOCAB_SPLITS: [[a]]\n", ["expected a list of texts", "got the element"]),
    "endless list": ("INPUT:\n  VOCAB_SPLITS: &a [*a]\n", ["expected a list of texts", "got the element"]),
    "too few elements": ("OPTIMIZATION:\n  BETAS: [0.9]\n", ["expected a list of 2 numbers", "got [0.9]"]),
    "element out of range": ("OPTIMIZATION:\n  BETAS: [0.9, 1]\n", ["below 1", "got the element 1"]),
    "unknown choice": (
        "OPTIMIZATION:\n  OPTIMIZER: Adm\n",
        ["adam, adamw, bert_adamw, sgd, momentum", "did you mean adam?"],
    ),
    "below the minimum": ("MODEL:\n  EMBED_DIM: 0\n", ["expected a whole number of at least 1, got 0"]),
    "at an excluded minimum": ("OPTIMIZATION:\n  LR: 0\n", ["expected a number above 0, got 0"]),
    "above the maximum": ("OPTIMIZATION:\n  LR_END_FACTOR: 2\n", ["at most 1", "got 2"]),
    "at an excluded maximum": ("OPTIMIZATION:\n  EMA_DECAY: 1\n", ["below 1", "got 1"]),
    "not a number": ("LOSS:\n  MARGIN: .nan\n", ["LOSS.MARGIN: expected a number of at least 0, got .nan"]),
    "infinite": ("LOSS:\n  MARGIN: .inf\n", ["expected a number of at least 0, got .inf"]),
    "too large": ("LOSS:\n  MARGIN: 1e999\n", ["got .inf"]),
    "endless digits": ("LOSS:\n  MARGIN: " + "9" * 5000 + "\n", ["expected a number", "got .inf"]),
    "key twice": (
        "MODEL:\n  NAME: vse\n  EMBED_DIM: 5\n  NAME: vsepp\n",
        ["line 4: MODEL.NAME: expected once", "after line 2"],
    ),
    "section twice": (
        "MODEL:\n  NAME: vse\nLOSS:\nMODEL:\n",
        ["line 4: MODEL: expected once", "after line 1"],
    ),
    "text for the whole": ("vsepp\n", ["line 1: expected sections, such as MODEL:", 'got "vsepp"']),
    "list for the whole": ("- a\n- b\n", ["expected sections", 'got ["a", "b"]']),
    "text for a section": ("MODEL: vsepp\n", ["MODEL: expected keys, such as NAME:", 'got "vsepp"']),
    "list for a key": ("? [a, b]\n: c\n", ["line 1: expected a name before the colon"]),
    "broken YAML": ("MODEL:\n  NAME: [vse\nLOSS:\n", ["line 3: expected YAML"]),
    "indentation": ("MODEL:\n  NAME: vse\n EMBED_DIM: 5\n", ["line 3: expected YAML"]),
    "tab": ("MODEL:\n\tNAME: vse\n", ["line 2: expected YAML", "spaces, not tabs"]),
    "two documents": ("MODEL:\n---\nLOSS:\n", ["line 2: expected YAML", "single document"]),
    "control character": ("MODEL:\n  NAME: \x07\n", ["line 2: expected YAML, got the character U+0007"]),
    "deep nesting": ("[" * 5000, ["nested too deeply"]),
    "object tag": (
        "DATASET:\n  NAME: !!python/name:os.system x\n",
        ["line 2: expected plain text", "python/name"],
    ),
    "number tag": ("DATASET:\n  NAME: !!int '3'\n", ["line 2: expected plain text", ":int"]),
    "missing base": ("MISC:\n_BASE_: none.yaml\n", ["line 2: _BASE_: there is no task file", "none.yaml"]),
    "base of a wrong type": ("_BASE_: {a: b}\n", ["line 1: _BASE_: expected the path", "got a mapping"]),
    "empty base": ("_BASE_:\n", ["_BASE_: expected the path", "got nothing"]),
    "base of itself": (
        "_BASE_: task.yaml\n",
        ["_BASE_: expected files that do not inherit themselves", "->"],
    ),
    "caption file": (
        "DATASET:\n  FORMAT: csv\n",
        ["line 2: DATASET.FORMAT: expected DATASET.CAPTION_FILE with csv"],
    ),
    "restval": ("DATASET:\n  USE_RESTVAL: true\n", ["USE_RESTVAL: expected FORMAT karpathy, got precomp"]),
    "empty split": ("DATASET:\n  DEV: ''\n", ["DATASET.DEV: expected the name of a split"]),
    "split twice": ("INPUT:\n  VOCAB_SPLITS: [a, a]\n", ["VOCAB_SPLITS: expected each split once"]),
    "no room for words": ("INPUT:\n  MAX_SEQ_LEN: 2\n", ["MAX_SEQ_LEN: expected 0 or more than 2", "got 2"]),
    "falling milestones": (
        "OPTIMIZATION:\n  LR_MILESTONES: [2, 2]\n",
        ["LR_MILESTONES: expected rising epochs"],
    ),
    "no milestones": (
        "OPTIMIZATION:\n  LR_SCHEDULER: multistep\n",
        ["line 2: OPTIMIZATION.LR_SCHEDULER: expected OPTIMIZATION.LR_MILESTONES"],
    ),
    "early stopping without validation": (
        "OPTIMIZATION:\n  EARLY_STOPPING: 3\nMONITOR:\n  EVAL_FREQ: 0\n",
        ["line 2: OPTIMIZATION.EARLY_STOPPING: expected validations"],
    ),
    "layers of vse": (
        "MODEL:\n  NAME: vse\n  NUM_LAYERS: 2\n",
        ["line 3: MODEL.NUM_LAYERS: expected 1 with vse"],
    ),
    "two directions of vse": ("MODEL: {NAME: vse, BIDIRECTIONAL: true}\n", ["expected false with vse"]),
}

OVERRIDE_MISTAKES = {
    "no equals sign": (["OUTPUT.SAVE_NAME", "x"], ["expected KEY=VALUE", "write OUTPUT.SAVE_NAME=x"]),
    "no value at all": (["OUTPUT.SAVE_NAME"], ["expected KEY=VALUE", "write OUTPUT.SAVE_NAME=VALUE"]),
    "no section": (["LR=1"], ["LR: there is no such key; did you mean OPTIMIZATION.LR?"]),
    "lower case": (["optimization.lr=1"], ["optimization.lr:", "did you mean OPTIMIZATION.LR?"]),
    "end of a key": (["OUTPUT.DIR=/tmp/x"], ["such key; did you mean OUTPUT.CHECKPOINT_DIR?"]),
    "misspelt section": (["OPTIMISATION.LR=1"], ["did you mean OPTIMIZATION.LR?"]),
    "misspelt key": (["OPTIMIZATION.EPOCS=1"], ["did you mean OPTIMIZATION.EPOCHS?"]),
    "both misspelt": (["OPTIMISER.EPOCS=1"], ["did you mean OPTIMIZATION.EPOCHS?"]),
    "section alone": (["MODEL=vse"], ["MODEL is a section", "such as MODEL.NAME"]),
    "no key": (["=1"], [": there is no such key"]),
    "three parts": (["MODEL.NAME.X=1"], ["MODEL.NAME.X: there is no such key"]),
    "type": (["MODEL.EMBED_DIM=big"], ["MODEL.EMBED_DIM: expected a whole number", 'got "big"']),
    "nothing": (["MODEL.EMBED_DIM="], ["expected a whole number of at least 1, got nothing"]),
    "list without brackets": (["INPUT.VOCAB_SPLITS=train"], ["expected a list of texts", "in brackets"]),
    "list that does not end": (["OPTIMIZATION.BETAS=[0.9,"], ["expected a list of 2 numbers", 'got "[0.9,"']),
    "line break": (["MODEL.NA\nME=vse"], ["MODEL.NA ME: there is no such key"]),
    "line break in a choice": (["MODEL.NAME=v\nse"], [r'got "v\nse"']),
    "folder above": (
        ["OUTPUT.SAVE_NAME=../x"],
        ["OUTPUT.SAVE_NAME: expected the name of a folder", '"../x"'],
    ),
    "absolute folder": (["OUTPUT.SAVE_NAME=/x"], ["expected the name of a folder inside"]),
    "key of VinVL-Paddle": (["OPTIMIZATION.LOSS_TYPE=sfmx"], ["no such key", "did you mean LOSS.NAME?"]),
    "loss of pairs for a dual encoder": (
        ["LOSS.NAME=match_binary"],
        ["LOSS.NAME: expected hinge or contrastive with vsepp, got match_binary"],
    ),
    "no folder": (["OUTPUT.SAVE_NAME="], ["expected the name of a folder inside", 'got ""']),
    "this folder": (["OUTPUT.SAVE_NAME=."], ["expected the name of a folder inside"]),
}


# What does not fit Oscar, beside MODEL.NAME=oscar and what else it needs.
OSCAR = ["MODEL.NAME=oscar", "LOSS.NAME=match_cross_entropy", "INPUT.MAX_SEQ_LEN=70"]
OSCAR_MISTAKES = {
    "a loss of embeddings": (
        ["LOSS.NAME=hinge"],
        ["LOSS.NAME: expected one of match_cross_entropy, match_binary", "with oscar, got hinge"],
    ),
    "no room for a token": (["INPUT.MAX_SEQ_LEN=2"], ["INPUT.MAX_SEQ_LEN: expected 3 to 512", "got 2"]),
    "no bound of tokens": (["INPUT.MAX_SEQ_LEN=0"], ["expected 3 to 512", "MODEL.BERT_POSITIONS", "got 0"]),
    "more tokens than positions": (["MODEL.BERT_POSITIONS=60"], ["expected 3 to 60", "got 70"]),
    "heads that do not divide": (["MODEL.BERT_HEADS=5"], ["MODEL.BERT_HEADS", "divisor", "768", "got 5"]),
    "one length a batch": (["OPTIMIZATION.BATCHING=same_length"], ["expected random or bucket with oscar"]),
    "images together": (["OPTIMIZATION.IMAGES_TOGETHER=4"], ["IMAGES_TOGETHER: expected 1", "NEGATIVES"]),
    "a value for two labels": (["LOSS.NAME=match_regression"], ["OUTPUT.NUM_LABELS: expected 1", "got 2"]),
    "two labels for softmax": (["OUTPUT.NUM_LABELS=1"], ["expected 2 with LOSS.NAME=match_cross_entropy"]),
    "words of other splits": (["INPUT.VOCAB_SPLITS=[dev]"], ["INPUT.VOCAB_SPLITS: expected []"]),
    "mined from nowhere": (
        ["NEGATIVES.KIND=mined"],
        ["NEGATIVES.DUAL: expected a dual encoder's checkpoint"],
    ),
    "a dual encoder for nothing": (["NEGATIVES.DUAL=out/a/best"], ["and none otherwise", "with random"]),
    "batches made ahead": (
        ["NEGATIVES.KIND=batch", "MISC.NUM_WORKERS=1"],
        ["MISC.NUM_WORKERS: expected 0 with NEGATIVES.KIND=batch", "got 1"],
    ),
    "several of the hardest": (
        ["NEGATIVES.KIND=batch", "NEGATIVES.COUNT=2"],
        ["NEGATIVES.COUNT: expected 1 with NEGATIVES.KIND=batch", "got 2"],
    ),
    "all pairs and candidates": (
        ["EVAL.EVAL_CAPTION_INDEX_FILE=index.json"],
        ["EVAL.EVAL_CROSS_IMAGE: expected true, or false with candidates", 'got true and "index.json"'],
    ),
    "some of the candidates' images": (
        [
            "EVAL.EVAL_CAPTION_INDEX_FILE=index.json",
            "EVAL.EVAL_CROSS_IMAGE=false",
            "MONITOR.DEV_IMAGES=5",
        ],
        ["MONITOR.DEV_IMAGES: expected 0", "got 5"],
    ),
    "VinVL's limits elsewhere": (
        ["INPUT.NUM_CAPTIONS_PER_IMAGE_TRN=5"],
        ["NUM_CAPTIONS_PER_IMAGE_TRN: expected it with DATASET.FORMAT=vinvl alone, got precomp"],
    ),
}


def message_of(path, overrides=()) -> str:
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize(("text", "fragments"), FILE_MISTAKES.values(), ids=FILE_MISTAKES)
def test_a_mistake_in_a_task_file_names_the_file_and_the_line(tmp_path, text, fragments):
    path = tmp_path / "task.yaml"
    path.write_text(text, encoding="utf-8")
    message = message_of(path)
    assert message.startswith(str(path))
    for fragment in fragments:
        assert fragment in message


@pytest.mark.parametrize(("overrides", "fragments"), OVERRIDE_MISTAKES.values(), ids=OVERRIDE_MISTAKES)
def test_a_mistake_on_the_command_line_says_so(overrides, fragments):
    message = message_of(None, overrides)
    assert message.startswith("command line: ")
    for fragment in fragments:
        assert fragment in message


@pytest.mark.parametrize(("overrides", "fragments"), OSCAR_MISTAKES.values(), ids=OSCAR_MISTAKES)
def test_what_makes_no_sense_for_pairs_is_one_line(overrides, fragments):
    load_config(None, OSCAR)
    message = message_of(None, [*OSCAR, *overrides])
    for fragment in fragments:
        assert fragment in message


def test_a_mistake_in_a_base_names_the_base(tmp_path):
    (tmp_path / "base.yaml").write_text("\n\nMODEL:\n  NAME: VSE\n")
    (tmp_path / "task.yaml").write_text("_BASE_: base.yaml\nMODEL:\n  NAME: vse\n")
    message = message_of(tmp_path / "task.yaml")
    assert message.startswith(f"{tmp_path / 'base.yaml'}, line 4: MODEL.NAME: ")
    assert "did you mean vse?" in message


def test_a_circle_of_bases_is_shown(tmp_path):
    for name, base in (("a", "b"), ("b", "c"), ("c", "b")):
        (tmp_path / f"{name}.yaml").write_text(f"_BASE_: {base}.yaml\n")
    chain = " -> ".join(str(tmp_path / f"{name}.yaml") for name in "abcb")
    assert chain in message_of(tmp_path / "a.yaml")


def test_of_two_keys_that_do_not_fit_the_one_from_the_command_line_is_named(tmp_path):
    (tmp_path / "task.yaml").write_text("OPTIMIZATION:\n  LR_MILESTONES: [5, 10]\n")
    assert message_of(tmp_path / "task.yaml", ["OPTIMIZATION.LR_MILESTONES=[5,1]"]).startswith(
        "command line: "
    )


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    assert message_of(tmp_path / "none.yaml") == f"{tmp_path / 'none.yaml'}: there is no such task file"
    assert message_of(tmp_path) == (
        f"{tmp_path}: expected a task file or the folder of a run, got a folder without config.yaml"
    )


def test_bytes_that_are_not_utf_8_are_named_with_their_line(tmp_path):
    path = tmp_path / "task.yaml"
    path.write_bytes("MODEL:\n  # größer\n".encode("latin-1"))
    assert message_of(path) == f"{path}, line 2: expected UTF-8 text, got the byte 0xf6"


LONG = "N" * 400
LONG_MISTAKES = {
    "section": f"{LONG}:\n  A: 1\n",
    "key": f"MODEL:\n  {LONG}: 1\n",
    "key with a dot": f"{LONG}.{LONG}: 1\n",
    "key twice": f"MODEL:\n  {LONG}: 1\n  {LONG}: 1\n",
    "text": f"OPTIMIZATION:\n  LR: {LONG}\n",
    "list": f"OPTIMIZATION:\n  LR: [{LONG}, {LONG}]\n",
    "tag": f"MODEL:\n  NAME: !{LONG} vse\n",
    "alias": f"MODEL:\n  NAME: *{LONG}\n",
    "base": f"_BASE_: {LONG}\n",
    "bases": f"_BASE_: [[{LONG}]]\n",
}


@pytest.mark.parametrize("mistake", LONG_MISTAKES)
def test_a_long_name_or_value_is_cut(tmp_path, monkeypatch, mistake):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.yaml").write_text(LONG_MISTAKES[mistake])
    with pytest.raises(UserError) as error:
        load_config("t.yaml")
    assert "\n" not in str(error.value) and len(str(error.value)) <= 300
