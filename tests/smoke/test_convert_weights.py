"""Checkpoints of other implementations are converted from the command line, evaluate at once, and go back."""

import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file, save_file

from datasets.words.vocabulary import Vocabulary
from engine.conversion.torch_writer import write_torch_file
from engine.conversion.vocabularies import unpickle_words
from engine.ranking.metrics import ranks
from engine.weights.stored import stored
from engine.weights.torch_files import read_torch_file
from tests.checkpoints import (
    tensors,
    vsepp_parts,
    word_names,
    write_vocabulary,
    write_vsepp,
)

DUAL = {
    **{f"vsepp/{name}.pth.tar": "vsepp/{}.npz" for name in ("cosine", "order", "vse0", "twolayer")},
    **{f"vsepp/cosine.{kind}.pth.tar": "vsepp/{}.npz" for kind in ("legacy", "legacy_cuda")},
    **{f"vsrn/{name}.pth.tar": "vsrn/{}.npz" for name in ("coco", "f30k")},
    **{f"vsrn/coco.{kind}.pth.tar": "vsrn/{}.npz" for kind in ("legacy", "legacy_cuda")},
}


def write_data(folder: Path, golden: dict[str, np.ndarray], words: list[str]) -> Path:
    """Write the images and captions of a fixture as a test split, a caption an image."""
    folder.mkdir()
    np.save(folder / "test_ims.npy", golden["images"])
    captions = [
        " ".join(words[token] for token in row[1 : length - 1])
        for row, length in zip(golden["captions"], golden["lengths"], strict=True)
    ]
    (folder / "test_caps.txt").write_text("\n".join(captions) + "\n")
    return folder


def spelled(golden: dict[str, np.ndarray]) -> np.ndarray:
    """Return the captions that words can spell: random tokens make some with a marker inside."""
    rows = zip(golden["captions"], golden["lengths"], strict=True)
    plain = [number for number, (row, length) in enumerate(rows) if min(row[1 : length - 1]) > 3]
    assert len(plain) > len(golden["captions"]) / 2
    return np.array(plain)


@pytest.mark.parametrize("name", DUAL)
def test_a_genuine_checkpoint_of_two_encoders_computes_what_it_did(run_quickly, shared, tmp_path, name):
    fixtures = shared / "fixtures"
    reference = fixtures / DUAL[name].format(Path(name).name.split(".")[0])
    golden, words = dict(np.load(reference)), word_names(60)
    vocabulary = write_vocabulary(tmp_path / "vocab.json", words)
    options = ["--vocabulary", vocabulary, "--reference", reference]
    done = run_quickly("convert_weights", fixtures / name, "out/run", *options, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "outputs are the original's to 1e-05, and ranks exactly" in done.stdout
    sheet = json.loads((tmp_path / "out/run/conversion.json").read_text())
    for output in ("img_emb", "cap_emb"):
        assert sheet["reference"]["outputs"][output]["largest_difference"] <= 1e-5
    pairs = len(golden["images"])
    assert sheet["reference"]["ranks"]["i2t"] == {"queries": pairs, "equal": pairs}
    if "order" in name or "vse0" in name:  # their captions are the tokens of the others', and as good a test
        return
    data = write_data(tmp_path / "data", golden, words)
    scored = [f"DATASET.DATA_DIR={data}", "--save_scores", tmp_path / "scores.npz"]
    done = run_quickly("eval_retrieval", "--cfg_file", "out/run/config.yaml", *scored, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    plain = spelled(golden)
    scores = np.load(tmp_path / "scores.npz")["scores"][np.ix_(plain, plain)]
    expected = (golden["img_emb"] @ golden["cap_emb"].T)[np.ix_(plain, plain)]
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    own = np.arange(len(plain))
    np.testing.assert_array_equal(ranks(scores, own, own), ranks(expected, own, own))


def test_a_genuine_vse_with_its_dictionary(run_quickly, shared, tmp_path):
    folder = shared / "fixtures" / "kiros"
    options = ["--vocabulary", folder / "dictionary.json", "--reference", folder / "kiros.npz"]
    done = run_quickly("convert_weights", folder / "kiros_model_lstm.pkl", "run", *options, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "outputs are the original's to 1e-05" in done.stdout
    assert (
        "dictionary.json: 9 words for 40 word vectors: 29 have no word, so no caption uses them: give the "
        "whole dictionary that the model was trained with (--vocabulary)\n" in done.stdout
    )
    example = json.loads((folder / "dictionary.json").read_text())
    vocabulary = Vocabulary.load(tmp_path / "run/best/vocab.json")
    first, second = (vocabulary.encode(caption) for caption in example["prepare_data_caps"])
    assert [[*row] for row in zip(first, second, strict=True)] == [
        # The original built this example with the 9 words it kept; the model itself has room for 40.
        *example["x"][:2],
        [8, 10],
        [0, 0],
    ]


@pytest.fixture
def oscar(shared, tmp_path) -> Path:
    """Return a copy of the original's checkpoint folder."""
    return copy_oscar(shared, tmp_path / "checkpoint")


def copy_oscar(shared: Path, folder: Path) -> Path:
    folder.mkdir()
    for name in ("pytorch_model.bin", "config.json", "vocab.txt", "training_args.bin"):
        shutil.copyfile(shared / "fixtures" / "oscar" / name, folder / name)
    return folder


@pytest.mark.parametrize("weights", ["pytorch_model.bin", "pytorch_model.legacy.bin"])
def test_a_genuine_oscar_evaluates_without_training(run_quickly, shared, oscar, tmp_path, weights):
    fixtures = shared / "fixtures" / "oscar"
    shutil.copyfile(fixtures / weights, oscar / "pytorch_model.bin")
    reference = ["--reference", fixtures / "oscar.npz"]
    done = run_quickly("convert_weights", oscar, "run", *reference, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "compared: i2t: 4 of 4 ranks are the same" in done.stdout
    assert "compared: t2i: 20 of 20 ranks are the same" in done.stdout
    (tmp_path / "data").mkdir()
    for path in fixtures.glob("*.tsv"):
        shutil.copyfile(path, tmp_path / "data" / path.name)
    done = run_quickly(
        "convert_weights", fixtures / "test_captions.pt", "data/test_captions.json", cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (0, "data/test_captions.json: 4 images, 20 entries\n")
    data = ["DATASET.DATA_DIR=data", "--out", "result"]
    done = run_quickly("eval_retrieval", "--cfg_file", "run/config.yaml", *data, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    metrics = json.loads((tmp_path / "result/result.json").read_text())["metrics"]
    golden = np.load(fixtures / "oscar.npz")
    for way in ("i2t", "t2i"):
        expected = [100 * float(share) for share in golden[f"{way}_acc"]]
        np.testing.assert_allclose([metrics[f"{way}_r{k}"] for k in (1, 5, 10)], expected, atol=1e-9)


def copied(content: object) -> dict[str, np.ndarray]:
    """Return all arrays in nested containers by their path."""
    found = {}

    def walk(thing: object, path: str) -> None:
        if isinstance(thing, np.ndarray):
            found[path] = thing
        elif isinstance(thing, dict | list | tuple):
            for name, value in thing.items() if isinstance(thing, dict) else enumerate(thing):
                walk(value, f"{path}/{name}")

    walk(content, "")
    return found


BACK = {
    "vsepp/twolayer.pth.tar": [],
    "vsepp/cosine.legacy_cuda.pth.tar": [],
    "vsrn/f30k.pth.tar": ["f30k.caption_model.pth"],
    "vsrn/coco.legacy.pth.tar": [],
    "kiros/kiros_model_lstm.pkl": [],
    "oscar": [],
}


@pytest.mark.parametrize("name", BACK)
def test_a_converted_checkpoint_goes_back_bit_for_bit(run_quickly, shared, tmp_path, name):
    source = shared / "fixtures" / name
    words = write_vocabulary(tmp_path / "vocab.json", word_names(60))
    vocabulary = source.with_name("dictionary.json") if "kiros" in name else words
    options = [] if name == "oscar" else ["--vocabulary", vocabulary]
    for decoder in BACK[name]:
        options += ["--caption_model", source.with_name(decoder)]
    done = run_quickly("convert_weights", source, "run", *options, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    output = tmp_path / "back" if name == "oscar" else tmp_path / source.name
    done = run_quickly("convert_weights", "run", output, "--to", "torch", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    pairs = {source: output}
    if name == "oscar":
        pairs = {source / "pytorch_model.bin": output / "pytorch_model.bin"}
        assert json.loads((output / "config.json").read_text()) == json.loads(
            (source / "config.json").read_text()
        )
    pairs |= {source.with_name(other): tmp_path / other for other in BACK[name]}
    for original, written in pairs.items():
        first, second = read_torch_file(original), read_torch_file(written)
        expected, found = copied(first), copied(second)
        assert found.keys() == expected.keys()
        for key, array in expected.items():
            assert (found[key].dtype, found[key].shape) == (array.dtype, array.shape), key
            assert found[key].tobytes() == array.tobytes(), key
        if ".tar" in name and written == output:
            assert first["opt"] == second["opt"] and first["Eiters"] == second["Eiters"]
    if "kiros" in name:
        listed = json.loads(vocabulary.read_text())["worddict"]
        assert json.loads((tmp_path / "kiros_model_lstm.dictionary.json").read_text()) == listed
        first, second = (unpickle_words(path.with_name("kiros_params_lstm.pkl")) for path in (source, output))
        assert first == second and first["n_words"] == 40


def narrowed_parts(kind: str) -> list:
    """Return the encoders of a small VSE++ whose numbers fit in 16 bits."""
    parts = []
    for part in vsepp_parts():
        half = {name: tensor.load().astype(np.float16) for name, tensor in part.items()}
        if kind == "bfloat16":
            half = {name: (array.astype("f4").view("u4") >> 16).astype("u2") for name, array in half.items()}
        parts.append({name: stored(array, kind) for name, array in half.items()})
    return parts


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_weights_of_sixteen_bits_are_widened_and_go_back(run_quickly, tmp_path, kind):
    parts = narrowed_parts(kind)
    write_vsepp(tmp_path / "a.pth.tar", parts)
    write_vocabulary(tmp_path / "v.json", word_names(9))
    done = run_quickly("convert_weights", "a.pth.tar", "run", "--vocabulary", "v.json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    found = load_file(tmp_path / "run/best/model.safetensors")
    np.testing.assert_array_equal(found["image_encoder.fc.weight"], parts[0]["fc.weight"].read().T)
    assert found["image_encoder.fc.weight"].dtype == np.float32
    done = run_quickly("convert_weights", "run", "b.pth.tar", "--to", "torch", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    with zipfile.ZipFile(tmp_path / "a.pth.tar") as first, zipfile.ZipFile(tmp_path / "b.pth.tar") as second:
        storages = [name for name in first.namelist() if "/data/" in name]
        assert storages and all(first.read(name) == second.read(name) for name in storages)


def test_a_standardised_run_goes_to_torch_and_back_with_its_own_files(run_quickly, tiny, tmp_path):
    trained = ["OPTIMIZATION.EPOCHS=1", "INPUT.STANDARDIZE=true"]
    assert run_quickly("train_retrieval", *tiny, *trained).returncode == 0
    done = run_quickly("convert_weights", "run", "a.pth.tar", "--to", "torch", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(
        "; the standardisation of features (INPUT.STANDARDIZE) is a part of its linear map; vocabulary: "
        "a.vocab.json (of the tokenizer simple, the original's is nltk)\n"
    )
    own = json.loads((tmp_path / "run/best/vocab.json").read_text())
    written = json.loads((tmp_path / "a.vocab.json").read_text())
    assert [*written["word2idx"]] == own["words"] and written["idx"] == len(own["words"])
    assert written["idx2word"] == {str(number): word for number, word in enumerate(own["words"])}
    first = load_file(tmp_path / "run/best/model.safetensors")
    features = np.random.default_rng(0).normal(3, 2, (9, len(first["image_encoder.fc.weight"])))
    standard = (features - first["image_encoder.feature_norm.mean"]) / first[
        "image_encoder.feature_norm.deviation"
    ]
    expected = standard @ first["image_encoder.fc.weight"] + first["image_encoder.fc.bias"]
    for words, tokenizer in (("run/best/vocab.json", "simple"), ("a.vocab.json", "nltk")):
        done = run_quickly(
            "convert_weights", "a.pth.tar", "b", "--vocabulary", words, "--overwrite", cwd=tmp_path
        )
        assert (done.returncode, done.stderr) == (0, "")
        again = Vocabulary.load(tmp_path / "b/best/vocab.json")
        assert (again.words, again.tokenizer) == (own["words"], tokenizer)
        assert f"TOKENIZER: {tokenizer}" in (tmp_path / "b/config.yaml").read_text()
        second = load_file(tmp_path / "b/best/model.safetensors")
        found = features @ second["image_encoder.fc.weight"] + second["image_encoder.fc.bias"]
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
        texts = [name for name in first if name.startswith("text_encoder.")]
        assert all(first[name].tobytes() == second[name].tobytes() for name in texts)


def test_a_vocabulary_of_ours_of_another_model_is_refused(run_quickly, tmp_path):
    write_vsepp(tmp_path / "a.pth.tar")
    Vocabulary(word_names(8), "simple", "vsepp", 1).save(tmp_path / "v.json")
    done = run_quickly("convert_weights", "a.pth.tar", "run", "--vocabulary", "v.json", cwd=tmp_path)
    assert done.returncode == 2 and "v.json: 8 words, but the model has 9 word vectors" in done.stderr


def test_a_trained_run_is_written_in_the_originals_layout(run_quickly, tiny, tmp_path):
    plain = ["OPTIMIZATION.EPOCHS=1", "INPUT.STANDARDIZE=false"]
    assert run_quickly("train_retrieval", *tiny, *plain).returncode == 0
    words = tmp_path / "run/best/vocab.json"
    done = run_quickly("convert_weights", "run", "a.pth.tar", "--to", "torch", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    ids = {word: number for number, word in enumerate(json.loads(words.read_text())["words"])}
    (tmp_path / "v.json").write_text(json.dumps({"word2idx": ids}))
    done = run_quickly("convert_weights", "a.pth.tar", "again", "--vocabulary", "v.json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    first, second = (load_file(tmp_path / run / "best/model.safetensors") for run in ("run", "again"))
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(second[name], array)


def bert_folder(shared: Path, folder: Path, layout: str) -> Path:
    """Write the BERT inside the original Oscar as Hugging Face, VinVL-Paddle or PaddleNLP does."""
    copy_oscar(shared, folder)
    arrays = dict(np.load(shared / "fixtures" / "oscar" / "oscar.weights.npz"))
    (folder / "pytorch_model.bin").unlink()
    own = {name: array for name, array in arrays.items() if "img_embedding" not in name}
    own = {
        name: array for name, array in own.items() if not name.startswith(("bert.LayerNorm", "classifier"))
    }
    if layout == "Hugging Face":
        plain = {name.removeprefix("bert."): array for name, array in own.items()}
        position_ids = np.arange(64)[None]
        save_file(plain | {"embeddings.position_ids": position_ids}, folder / "model.safetensors")
    else:
        turned = {
            name: paddle.to_tensor(array.T.copy() if array.ndim == 2 and "embeddings" not in name else array)
            for name, array in (arrays if layout == "VinVL-Paddle" else own).items()
        }
        half = {name: tensor.astype("bfloat16") for name, tensor in turned.items()}
        name = "paddle_model.bin" if layout == "VinVL-Paddle" else "model_state.pdparams"
        paddle.save(turned if layout == "VinVL-Paddle" else half, str(folder / name))
    return folder


def test_vinvl_paddle_brings_the_same(run_quickly, shared, tmp_path):
    source = bert_folder(shared, tmp_path / "vinvl", "VinVL-Paddle")
    reference = ["--reference", shared / "fixtures" / "oscar" / "oscar.npz"]
    done = run_quickly("convert_weights", source, "run", *reference, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "outputs are the original's to 1e-05" in done.stdout and "run: VinVL-Paddle" in done.stdout


@pytest.mark.parametrize("layout", ["Hugging Face", "PaddleNLP in bfloat16"])
def test_a_plain_bert_evaluates_and_starts_a_training(run_quickly, shared, tmp_path, layout):
    fixtures = shared / "fixtures" / "oscar"
    source = bert_folder(shared, tmp_path / "bert", layout)
    done = run_quickly("convert_weights", source, "run", "INPUT.IMG_FEATURE_DIM=54", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "note: bert.regions and classifier: not in the file: random weights" in done.stdout
    found = load_file(tmp_path / "run/best/model.safetensors")
    expected = np.load(fixtures / "oscar.weights.npz")["bert.pooler.dense.weight"].T
    if "bfloat16" in layout:  # Paddle rounds, and what it stores is widened
        np.testing.assert_allclose(found["bert.pooler.weight"], expected, rtol=2**-8)
        assert not (found["bert.pooler.weight"].view("u4") & 0xFFFF).any()
    else:
        np.testing.assert_array_equal(found["bert.pooler.weight"], expected)
    (tmp_path / "data").mkdir()
    for path in fixtures.glob("*.tsv"):
        shutil.copyfile(path, tmp_path / "data" / path.name)
    for split in ("train", "minival", "test"):
        captions = json.loads((fixtures / "oscar.json").read_text())["captions"]
        (tmp_path / "data" / f"{split}_captions.json").write_text(json.dumps(captions))
    evaluate = ["--cfg_file", "run/config.yaml", "DATASET.DATA_DIR=data"]
    done = run_quickly("eval_retrieval", *evaluate, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    train = [
        "PRETRAINED.DIR=run",
        "OUTPUT.SAVE_NAME=trained",
        "OPTIMIZATION.EPOCHS=1",
        "MONITOR.VISUALDL=false",
    ]
    done = run_quickly("train_retrieval", *evaluate, *train, "OPTIMIZATION.BATCH_SIZE=4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "weights: run; new: bert.regions, classifier" in done.stdout


class Runs:
    """Pickled, a call of os.system."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple:
        return os.system, (self.command,)


def write_pt(path: Path, content: object) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps(content, 2))
    return path


@pytest.mark.parametrize("kind", ["model", "captions", "vocabulary", "options"])
def test_a_file_that_would_run_something_is_refused(run_quickly, oscar, tmp_path, kind):
    runs = {"a": Runs(f"touch {tmp_path / 'ran'}")}
    options = []
    if kind == "model":
        path, source = write_pt(oscar / "pytorch_model.bin", runs), oscar
    elif kind == "captions":
        path = source = write_pt(tmp_path / "captions.pt", runs)
    elif kind == "options":
        path = source = write_pt(tmp_path / "a.pth.tar", {"opt": runs["a"]})
    else:
        source, path = write_vsepp(tmp_path / "a.pth.tar"), tmp_path / "v.pkl"
        path.write_bytes(pickle.dumps(runs, 0))
        options = ["--vocabulary", path]
    done = run_quickly("convert_weights", source, "out", *options, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"error: {path}: not a ")
    assert done.stderr.endswith("it asks for posix.system, which is not run\n")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "out").exists()


def without(name: str):
    return lambda folder: (folder / name).unlink()


def edit(**changes: object):
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def append(name: str, text: str):
    return lambda folder: (folder / name).write_text((folder / name).read_text() + text)


def weights(content: object):
    return lambda folder: write_torch_file(folder / "pytorch_model.bin", content)


WORDS = "bert.embeddings.word_embeddings.weight"
FOLDERS = {
    "config.json: cannot be read (No such file or directory): a BERT's folder has it": without("config.json"),
    "config.json: not JSON": append("config.json", "}"),
    "num_hidden_layers is 3, but pytorch_model.bin has 2 layers": edit(num_hidden_layers=3),
    "hidden_size is 32, but the tensors of pytorch_model.bin make it 64": edit(hidden_size=32),
    "config.json: num_attention_heads: expected a divisor of hidden_size (64), got 5": edit(
        num_attention_heads=5
    ),
    "layer_norm_eps: expected a number in [0, 1), got 'small'": edit(layer_norm_eps="small"),
    "vocab.txt: 75 words, but the weights know 74": append("vocab.txt", "more\n"),
    "no file of weights: expected one of model.safetensors, pytorch_model.bin": without("pytorch_model.bin"),
    "paddle_model.bin; if pytorch_model.legacy.bin holds them, rename it to pytorch_model.bin": (
        lambda folder: (folder / "pytorch_model.bin").rename(folder / "pytorch_model.legacy.bin")
    ),
    "expected a state dict, names to tensors, got a dict of model": weights({"model": [1]}),
    "no tensor embeddings.word_embeddings.weight: not the weights of a BERT": weights(
        tensors({"a": np.zeros(2, "f4")})
    ),
    "no tensor bert.embeddings.position_embeddings.weight": weights(
        tensors({WORDS: np.zeros((74, 64), "f4"), "bert.encoder.layer.1.a": np.zeros(2, "f4")})
    ),
}


@pytest.mark.parametrize("message", FOLDERS)
def test_a_folder_that_does_not_fit_is_one_line_and_loses_nothing(run_quickly, oscar, tmp_path, message):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("kept")
    FOLDERS[message](oscar)
    done = run_quickly("convert_weights", oscar, "out", "--overwrite", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert message in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "out"]


def changed(part: int, **arrays: np.ndarray | None) -> list:
    """Return the encoders of a small VSE++ with other tensors; None takes one away."""
    parts = vsepp_parts()
    for name, array in arrays.items():
        name = name.replace("__", ".")
        parts[part].pop(name) if array is None else parts[part].update(tensors({name: array}))
    return parts


CHECKPOINTS = {
    "no tensor img.fc.bias (1 of 7 are missing), which VSE++ has": lambda path: write_vsepp(
        path, changed(0, fc__bias=None)
    ),
    "tensor txt.rnn.bias_hh_l0 is [14], its other tensors make it [15]": lambda path: write_vsepp(
        path, changed(1, rnn__bias_hh_l0=np.zeros(14, "f4"))
    ),
    "unexpected tensor img.more.weight (1 of 8 are), which VSE++ has no place for": lambda path: write_vsepp(
        path, changed(0, more__weight=np.zeros(2, "f4"))
    ),
    "tensor img.fc.bias has values that are not finite numbers": lambda path: write_vsepp(
        path, changed(0, fc__bias=np.full(5, np.nan, "f4"))
    ),
    "tensor img.fc.bias holds int64, expected floating-point numbers": lambda path: write_vsepp(
        path, changed(0, fc__bias=np.zeros(5, "i8"))
    ),
    "its options say embed_size=1024, but its tensors 5": lambda path: write_vsepp(path, embed_size=1024),
    "its options say img_dim=4096, but its tensors 6": lambda path: write_vsepp(path, img_dim=4096),
    "its options say vocab_size=11755, but its tensors 9": lambda path: write_vsepp(path, vocab_size=11755),
    "its options say measure=euclidean, expected cosine or order": lambda path: write_vsepp(
        path, measure="euclidean"
    ),
    "it stores no options (opt), so say how it compares: add MODEL.MEASURE MODEL.USE_ABS": lambda path: (
        write_torch_file(path, {"model": vsepp_parts()})
    ),
    "v.json: 9 words, but the model has 8 word vectors": lambda path: write_vsepp(
        path, vsepp_parts(vocab=8), vocab_size=8
    ),
    "a checkpoint of vse_infty, whose towers are not ours": lambda path: write_vsepp(
        path, changed(0, gpool__rnn__weight_ih_l0=np.zeros((2, 2), "f4"))
    ),
    "tensors of no model that is known here": lambda path: write_torch_file(
        path, tensors({"visual.proj": np.zeros((2, 2), "f4")})
    ),
    "VSRN's caption decoder alone": lambda path: write_torch_file(
        path,
        tensors({"decoder.attention.linear1.weight": np.zeros((2, 4), "f4"), "encoder.a": np.zeros(2, "f4")}),
    ),
}


@pytest.mark.parametrize("message", CHECKPOINTS)
def test_a_checkpoint_that_does_not_hold_together_is_one_line(run_quickly, tmp_path, message):
    CHECKPOINTS[message](tmp_path / "a.pth.tar")
    write_vocabulary(tmp_path / "v.json", word_names(9))
    done = run_quickly("convert_weights", "a.pth.tar", "out/run", "--vocabulary", "v.json", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert message in done.stderr
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("MODEL.EMBED_DIM=6", "MODEL.EMBED_DIM: the weights say 5, got 6: leave it out"),
        ("MODEL.NAME=vsrn", "MODEL.NAME: the weights say vsepp, got vsrn: leave it out"),
    ],
)
def test_what_the_weights_say_cannot_be_overridden(run_quickly, tmp_path, override, message):
    write_vsepp(tmp_path / "a.pth.tar")
    write_vocabulary(tmp_path / "v.json", word_names(9))
    words = "a.pth.tar", "run", "--vocabulary", "v.json", override
    done = run_quickly("convert_weights", *words, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, f"error: a.pth.tar: {message}\n")
    assert not (tmp_path / "run").exists()


def test_what_is_not_stored_is_asked_for_by_name(run_quickly, tmp_path):
    write_vsepp(tmp_path / "a.pth.tar")
    done = run_quickly("convert_weights", "a.pth.tar", "run", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        "error: a.pth.tar: it stores no vocabulary: give the one that it was trained with, of 9 words, "
        "such as f8k_precomp_vocab.pkl or .json, with --vocabulary FILE\n",
    )
    write_torch_file(tmp_path / "bare.pth.tar", {"model": vsepp_parts()})
    write_vocabulary(tmp_path / "v.json", word_names(9))
    told = ["MODEL.MEASURE=order", "MODEL.USE_ABS=true", "MODEL.NO_IMGNORM=false"]
    done = run_quickly(
        "convert_weights", "bare.pth.tar", "run", "--vocabulary", "v.json", *told, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "MEASURE: order" in (tmp_path / "run/config.yaml").read_text()


LISTS = {
    "expected a checkpoint, a vocabulary, or a dict from image keys to lists, got 2 entries": [1, 2],
    "key 7: not JSON: ": {7: "[1"},
    "key 7: expected a list in JSON, got '{\"a\": 1}'": {7: '{"a": 1}'},
    "some image key comes as a number and as a text": {7: "[]", "7": "[]"},
}


@pytest.mark.parametrize("message", LISTS)
def test_lists_that_are_none(run_quickly, tmp_path, message):
    write_pt(tmp_path / "a.pt", LISTS[message])
    done = run_quickly("convert_weights", "a.pt", "a.json", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: a.pt: ") and message in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_captions_and_candidates_become_json(run_quickly, shared, tmp_path):
    original = shared / "fixtures" / "oscar"
    done = run_quickly("convert_weights", original / "test_captions.pt", "data/test.json", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "data/test.json: 4 images, 20 entries\n", "")
    captions = json.loads((original / "oscar.json").read_text())["captions"]
    assert json.loads((tmp_path / "data/test.json").read_text()) == captions
    index = original / "minival_caption_indexs_top8.pt"
    done = run_quickly("convert_weights", index, tmp_path / "index.json", cwd=tmp_path)
    earlier = run_quickly("convert_oscar", index, tmp_path / "earlier.json", cwd=tmp_path)
    assert earlier.stdout == done.stdout.replace("index.json", "earlier.json")
    candidates = json.loads((tmp_path / "index.json").read_text())
    assert candidates["101"][:2] == [[101, 0], [102, 0]] and [*map(len, candidates.values())] == [8] * 4


def test_nothing_is_replaced_unasked(run_quickly, tmp_path):
    (tmp_path / "there").write_text("mine")
    done = run_quickly("convert_weights", write_vsepp(tmp_path / "a.pth.tar"), "there", cwd=tmp_path)
    assert done.stderr == "error: there: already there: give another OUT, or --overwrite to replace it\n"
    assert done.returncode == 2 and (tmp_path / "there").read_text() == "mine"


def test_a_model_that_computes_something_else_is_told_by_the_exit_code(run_quickly, tmp_path):
    write_vsepp(tmp_path / "a.pth.tar")
    write_vocabulary(tmp_path / "v.json", word_names(9))
    random = np.random.default_rng(0)
    inputs = {"images": random.normal(size=(4, 6)).astype("f4"), "captions": np.full((4, 3), 5)}
    inputs |= {"lengths": np.full(4, 3), "img_emb": np.eye(4, 5, dtype="f4")}
    np.savez(tmp_path / "other.npz", **inputs)
    options = ["--vocabulary", "v.json", "--reference"]
    done = run_quickly("convert_weights", "a.pth.tar", "run", *options, "other.npz", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert "NOT the original's: outputs differ by more than 1e-05, or ranks differ\n" in done.stdout
    assert done.stdout.endswith(
        "run computes something else than other.npz: it is not the original's model\n"
    )
    assert "evaluate:" not in done.stdout
    sheet = json.loads((tmp_path / "run/conversion.json").read_text())
    assert sheet["reference"]["outputs"]["img_emb"]["largest_difference"] > 0.1


REFERENCES = {
    "no array 'images'": {"captions": np.zeros((2, 3), int)},
    "3 captions of 2 images": {"images": np.zeros((2, 6), "f4"), "captions": np.zeros((3, 2), int)},
    "or words that the model does not know": {
        "images": np.zeros((2, 6), "f4"),
        "captions": np.full((2, 2), 99),
    },
    "no output to compare, expected one of img_emb": {
        "images": np.zeros((2, 6), "f4"),
        "captions": np.zeros((2, 2), int),
    },
    "img_emb is [2, 3], the model's is [2, 5]": {  # of a VSRN
        "images": np.zeros((2, 4, 6), "f4"),
        "captions": np.zeros((2, 2), int),
        "img_emb": np.zeros((2, 3), "f4"),
        "gcn_regions": np.zeros((2, 4, 3), "f4"),
    },
    "img_emb is [2, 4], the model's is [2, 5]": {
        "images": np.zeros((2, 6), "f4"),
        "captions": np.zeros((2, 2), int),
        "img_emb": np.zeros((2, 4), "f4"),
    },
}


@pytest.mark.parametrize("message", REFERENCES)
def test_a_reference_that_does_not_fit_is_one_line(run_quickly, tmp_path, message):
    write_vsepp(tmp_path / "a.pth.tar")
    write_vocabulary(tmp_path / "v.json", word_names(9))
    np.savez(tmp_path / "r.npz", **REFERENCES[message])
    options = ["--vocabulary", "v.json", "--reference", "r.npz"]
    done = run_quickly("convert_weights", "a.pth.tar", "run", *options, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith("error: r.npz: ") and message in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_berts_weights_of_another_name_are_renamed(run_quickly, oscar, tmp_path):
    path = (oscar / "pytorch_model.bin").rename(oscar / "pytorch_model.legacy.bin")
    done = run_quickly("convert_weights", path, tmp_path / "out")
    assert (
        done.returncode == 2
        and f"rename the file to pytorch_model.bin, and give the folder, {oscar}\n" in (done.stderr)
    )


def test_a_berts_weights_beside_others_get_a_folder_of_their_own(run_quickly, oscar, tmp_path):
    path = oscar / "pytorch_model.legacy.bin"
    path.write_bytes((oscar / "pytorch_model.bin").read_bytes())
    done = run_quickly("convert_weights", path, tmp_path / "out")
    assert done.returncode == 2 and "the folder is that of pytorch_model.bin: copy config.json" in done.stderr


def test_a_checkpoint_is_no_vocabulary(run_quickly, tmp_path):
    write_vsepp(tmp_path / "a.pth.tar")
    done = run_quickly("convert_weights", "a.pth.tar", "run", "--vocabulary", "a.pth.tar", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr == (
        "error: a.pth.tar: a checkpoint or another zip, expected a vocabulary: check --vocabulary\n"
    )


def test_a_vocabulary_takes_no_vocabulary(run_quickly, tmp_path):
    words, options = tmp_path / "words.json", tmp_path / "options.json"
    words.write_text(json.dumps({"the": 2, "dog": 3}))
    options.write_text(json.dumps({"dim_image": 48, "dim": 64, "dim_word": 32, "n_words": 40}))
    for source, message in (
        (words, "--vocabulary: expected weights with it"),
        (options, "the options of Kiros"),
    ):
        done = run_quickly("convert_weights", source, tmp_path / "out", "--vocabulary", words)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and message in done.stderr
        assert not (tmp_path / "out").exists()
