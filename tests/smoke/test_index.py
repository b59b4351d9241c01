"""Indexes from the command line: built, searched, changed and moved to another model, without Paddle."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from config.errors import UserError
from config.files.networks import read_backbone
from datasets.features.formats import open_features
from engine.extraction.recorded import record_of_backbone
from serving.bundle.bundle import Bundle
from serving.index.card import read_card, write_card
from serving.index.index import Index
from serving.index.items import Item
from tests.bundle_files import FEATURES, features_of, sentences_of, write_bundle
from tests.forks import Fork, run_forked
from tests.onnx_networks import backbone_yaml, write_many_means
from tests.picture_files import encoded, noisy, write_folder
from tools._warm_search import ask

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Return a folder with two bundles, features of 300 pictures, their captions, and their index."""
    folder = tmp_path_factory.mktemp("made")
    write_bundle(folder / "bundle")
    write_bundle(folder / "other", seed=1, width=20)
    sentences = sentences_of(300)
    np.save(folder / "test_ims.npy", features_of(sentences))
    (folder / "test_ids.txt").write_text("".join(f"{row}.jpg\n" for row in range(300)))
    lines = (
        json.dumps({"id": f"{row}.jpg", "caption": sentence, "metadata": {"year": 2000 + row % 10}})
        for row, sentence in enumerate(sentences)
    )
    (folder / "about.jsonl").write_text("\n".join(lines))
    command = ["build_index", "--bundle", folder / "bundle", "--gallery", folder / "test_ims.npy"]
    printed = run(*command, "--captions", folder / "about.jsonl", "--out", folder / "index")
    assert "300 pictures of 16 numbers, cosine, scan, recall@10 1.0000" in printed
    return folder


@pytest.fixture
def index(made, tmp_path) -> Path:
    return Path(shutil.copytree(made / "index", tmp_path / "index"))


def run(name: str, *arguments: object, code: int = 0) -> str:
    """Return what a tool prints, on stdout or, if it fails as expected, on stderr."""
    child = run_forked(ROOT / "tools" / f"{name}.py", *arguments)
    assert child.returncode == code, child.stderr
    assert not code or child.stderr.count("\n") == 1
    return child.stdout if code == 0 else child.stderr


def test_a_sentence_finds_its_picture(made):
    sentence = sentences_of(300)[42]
    lines = run("search_retrieval", "--index", made / "index", "--text", sentence).splitlines()
    first = next(line for line in lines if line.startswith("  1"))
    assert "42.jpg" in first and sentence in first and "1.0000" in first
    assert len([line for line in lines if line[:3].strip().isdigit()]) == 5


def test_terms_with_weights_and_shares(made):
    query = ["--text", "red dog", "--id", "7.jpg", "--minus", "boat", "--id_weight", "0.5", "--json"]
    answer = json.loads(run("search_retrieval", "--index", made / "index", *query))
    assert len(answer["hits"]) == 5 and "fits" in answer
    for hit in answer["hits"]:
        assert hit["id"] != "7.jpg"
        assert sum(hit["shares"].values()) == pytest.approx(hit["score"], abs=1e-5)
        assert list(hit["shares"]) == ["red dog", "7.jpg", "minus boat"]


def test_a_cut_off_that_turns_right_answers_away_is_not_applied(index):
    card = read_card(index)
    write_card(index, replace(card, cutoff=card.cutoff | {"deviations": 99.0, "turned_away_rate": 0.4}))
    search = ["search_retrieval", "--index", index, "--text", sentences_of(300)[7]]
    assert run(*search).startswith("nothing here fits")
    assert json.loads(run(*search, "--json"))["fits"] is False
    write_card(index, replace(card, cutoff=card.cutoff | {"deviations": 99.0, "turned_away_rate": 0.706}))
    assert run(*search).startswith("  1  1.0000  7.jpg")
    assert json.loads(run(*search, "--json"))["fits"] is None


def test_queries_of_a_file_are_answered_as_lines(made, tmp_path):
    np.save(tmp_path / "mine.npy", features_of(["blue car on house"])[0])
    queries = [{"text": "red dog"}, {"image": str(tmp_path / "mine.npy")}, {"id": "3.jpg", "minus": "cat"}]
    (tmp_path / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    command = ["--index", made / "index", "--queries", tmp_path / "queries.jsonl", "--where", "year >= 2005"]
    answers = [json.loads(line) for line in run("search_retrieval", *command, "--top_k", 3).splitlines()]
    assert [answer["query"] for answer in answers] == queries
    assert all(hit["metadata"]["year"] >= 2005 for answer in answers for hit in answer["hits"])


def test_it_works_where_paddle_is_not(made, tmp_path):
    """Modules that only training needs cannot be imported."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nfor name in ('paddle', 'yacs', 'yaml', 'tqdm', 'matplotlib', 'h5py', 'faiss'):\n"
        "    sys.modules[name] = None\n"
        "for name in ('engine', 'models', 'solvers'):\n    sys.modules[name] = None\n"
    )
    build = ["build_index", "--bundle", made / "bundle", "--gallery", made / "test_ims.npy"]
    for name, *arguments in (
        [*build, "--out", tmp_path / "index"],
        ["change_index", "--index", tmp_path / "index", "--check"],
        ["search_retrieval", "--index", tmp_path / "index", "--text", "dog"],
    ):
        child = subprocess.run(
            [sys.executable, ROOT / "tools" / f"{name}.py", *arguments],
            env={"PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert child.returncode == 0, child.stderr
    assert "  1  " in child.stdout


def test_pictures_go_through_the_backbone_that_the_bundle_names(tmp_path):
    """A model of features indexes and finds picture files where its backbone is, and says which it lacks."""
    network = write_many_means(tmp_path / "means.onnx", 8, FEATURES)
    backbone = read_backbone(backbone_yaml(tmp_path / "means.yaml", network))
    write_bundle(tmp_path / "bundle", extraction=record_of_backbone(backbone))
    write_folder(
        tmp_path / "photos", {f"{n}.jpg": encoded(noisy(60, 40, seed=n), "JPEG") for n in range(150)}
    )
    build = ["--bundle", tmp_path / "bundle", "--gallery", tmp_path / "photos", "--out", tmp_path / "index"]
    built = run("build_index", *build)
    assert "150 pictures of 16 numbers" in built
    assert built.splitlines()[-1] == f"next: python tools/serve_retrieval.py --index {tmp_path / 'index'}"
    query = tmp_path / "query.jpg"
    query.write_bytes((tmp_path / "photos" / "77.jpg").read_bytes())
    printed = run("search_retrieval", "--index", tmp_path / "index", "--image", query)
    assert "  1  1.0000  77.jpg" in printed
    with Index(tmp_path / "index") as index:  # as the tool for files of features makes them
        extraction = ["--images", tmp_path / "photos", "--backbone", tmp_path / "means.yaml"]
        run("extract_features", *extraction, "--out", tmp_path / "photos.h5")
        store = open_features(tmp_path / "photos.h5")
        vectors = Bundle.open(tmp_path / "bundle").encode_features(store.gather(np.arange(150), pool=False))
        assert np.allclose(index.vectors_of(store.image_ids), vectors, atol=1e-6)
    network.rename(tmp_path / "elsewhere.onnx")
    message = run("search_retrieval", "--index", tmp_path / "index", "--image", query, code=2)
    assert "means.onnx: no such file, expected a network" in message
    with pytest.raises(UserError, match="it reads features of width 12, which means.yaml made: extract them"):
        Bundle.open(tmp_path / "bundle").encode_pictures([query])


def test_pictures_that_cannot_be_read_are_refused_or_named_and_left_out(tmp_path):
    network = write_many_means(tmp_path / "means.onnx", 8, FEATURES)
    backbone = read_backbone(backbone_yaml(tmp_path / "means.yaml", network))
    write_bundle(tmp_path / "bundle", extraction=record_of_backbone(backbone))
    whole = {f"{n}.jpg": encoded(noisy(60, 40, seed=n), "JPEG") for n in range(3)}
    broken = {"cut.jpg": whole["1.jpg"][:300], "empty.jpg": b""}
    write_folder(tmp_path / "photos", whole | broken)
    (tmp_path / "c.csv").write_text("image,caption\n2.jpg,a dog\nempty.jpg,a cat\n")
    build = ["build_index", "--bundle", tmp_path / "bundle", "--gallery", tmp_path / "photos"]
    build += ["--captions", tmp_path / "c.csv", "--out", tmp_path / "index"]
    refused = run(*build, code=2)
    assert "cut.jpg: unreadable picture: " in refused and "--unreadable skip" in refused
    built = run(*build, "--unreadable", "skip")
    assert "empty.jpg: skipped, unreadable picture: zero bytes\nunreadable pictures skipped: 2\n" in built
    assert "indexing 3 items of" in built
    with Index(tmp_path / "index") as index:
        assert [item.id for item in index.items()] == ["0.jpg", "1.jpg", "2.jpg"]
        assert index.described(["2.jpg"])[0].caption == "a dog"
    (tmp_path / "photos" / "0.jpg").unlink()
    change = ["change_index", "--index", tmp_path / "index", "--add", tmp_path / "photos", "--update"]
    assert "cut.jpg: unreadable picture" in run(*change, code=2)
    assert "2 added, 2 of them updated; 3 pictures" in run(*change, "--unreadable", "skip")


def test_items_come_change_and_go(made, index, tmp_path):
    np.save(tmp_path / "more_ims.npy", features_of(["far boat under tree"]))
    (tmp_path / "more_ids.txt").write_text("new.jpg\n")
    change = ["change_index", "--index", index]
    assert "1 added; 301 pictures" in run(*change, "--add", tmp_path / "more_ims.npy")
    again = run(*change, "--add", tmp_path / "more_ims.npy", code=2)
    assert (
        "there is an item 'new.jpg' already: update it, or delete it first (--add with --update, or " in again
    )
    assert "1 added, 1 of them updated;" in run(*change, "--add", tmp_path / "more_ims.npy", "--update")
    (tmp_path / "about.jsonl").write_text('{"id": "new.jpg", "caption": "mine", "metadata": {"mine": true}}')
    assert "1 described" in run(*change, "--describe", tmp_path / "about.jsonl")
    found = run("search_retrieval", "--index", index, "--text", "boat", "--where", "mine = true")
    assert "new.jpg  mine" in found
    run(*change, "--add", tmp_path / "more_ims.npy", "--update")
    with Index(index) as opened:
        assert opened.described(["new.jpg"]) == [Item("new.jpg", "mine", {"mine": True})], "what it had stays"
    (tmp_path / "about.jsonl").write_text('{"id": "new.jpg", "caption": "yours"}')
    run(*change, "--add", tmp_path / "more_ims.npy", "--captions", tmp_path / "about.jsonl", "--update")
    with Index(index) as opened:
        assert opened.described(["new.jpg"]) == [Item("new.jpg", "yours", {"mine": True})]
    for line, caption, metadata in (
        ({"metadata": {"mine": 2}}, "yours", {"mine": 2}),
        ({"caption": "ours"}, "ours", {"mine": 2}),
        ({"caption": "", "metadata": {}}, None, {}),
    ):
        (tmp_path / "about.jsonl").write_text(json.dumps({"id": "new.jpg", **line}))
        run(*change, "--describe", tmp_path / "about.jsonl")
        with Index(index) as opened:
            assert opened.described(["new.jpg"]) == [Item("new.jpg", caption, metadata)]
    assert "2 deleted; 299 pictures" in run(*change, "--delete", "new.jpg", "0.jpg")
    assert "there is no item 'nothing.jpg'" in run(*change, "--delete", "nothing.jpg", code=2)
    assert "compacted; 299 pictures" in run(*change, "--compact")
    assert "whole; 299 pictures" in run(*change, "--check")


@pytest.mark.parametrize("words", [[], ["--overwrite"]])
def test_ctrl_c_in_a_build_says_how_it_goes_on(made, tmp_path, words):
    script = tmp_path / "interrupted.py"
    script.write_text(
        f"""import runpy, sys
sys.path[:0] = [{str(ROOT / "tools")!r}, {str(ROOT)!r}]
from serving.index import build
def stop(*_):
    raise KeyboardInterrupt
build.build = stop
runpy.run_path({str(ROOT / "tools" / "build_index.py")!r}, run_name="__main__")
"""
    )
    sources = ["--bundle", made / "bundle", "--gallery", made / "test_ims.npy", "--out", tmp_path / "i"]
    done = run_forked(script, *sources, *words)
    anew = " without --overwrite" if words else ""
    assert (done.returncode, done.stderr) == (
        130,
        f"interrupted: the same command{anew} goes on where it was\n",
    )


def test_the_model_is_changed(made, index):
    assert "300 pictures of 20 numbers" in run("build_index", "--bundle", made / "other", "--from", index)
    refused = run("search_retrieval", "--index", index, "--text", "dog", "--bundle", made / "bundle", code=2)
    assert "built with the bundle" in refused
    assert "  1  " in run("search_retrieval", "--index", index, "--text", "dog")
    card = json.loads((index / "card.json").read_text())
    assert card["cutoff"]["queries"] == 300 and card["previous"] == "0001"
    run("change_index", "--index", index, "--drop_previous")
    assert not (index / "0001").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text", "zebra"], "--text: no word of 'zebra' is in the vocabulary"),
        (["--text", ""], "expected a sentence, got none"),
        (["--text", "a dog", "two dogs"], "--text: expected one sentence in quotes, got 2"),
        (["--text", "dog", "--minus", "a", "red", "car"], "--minus: expected one sentence in quotes, got 3"),
        ([], "expected --text, --image, --id, --minus or a sum of them"),
        (["--text", "dog", "--minus", "zebra"], "--minus: no word of 'zebra' is in the vocabulary"),
        *[
            (
                ["--text", "dog", "--text_weight", weight],
                f"--text_weight: expected a number from -1000 to 1000, got {weight}",
            )
            for weight in ("inf", "nan", "1e+38", "1001.0")
        ],
        (["--text", "dog", "--where", "yaer = 3"], "no item has the key 'yaer'; did you mean year?"),
        (["--id", "nothing"], "there is no item 'nothing': name one that is there"),
        (["--image", "nothing.npy"], "nothing.npy cannot be read: No such file"),
        (["--text", "dog", "--bundle", "nowhere"], "no bundle at nowhere"),
        (["--text", "dog", "--cfg_file", "run"], "expected one of --index and --cfg_file, got both"),
        (["--text", "dog", "--where", "year == 2010"], 'filter: expected "=", got "=="'),
        (["--text", "dog", "--top_k", "0"], "--top_k and --rerank_k: expected at least 1"),
        (["--queries", "nothing.txt"], "nothing.txt cannot be read as text"),
        (["--txt", "dog"], "unrecognized arguments: --txt dog"),
        (["--id", "3.jpg", "--rerank", "x"], "--rerank: expected a sentence, which that model reads"),
    ],
)
def test_mistakes_of_a_search(made, arguments, message):
    assert message in run("search_retrieval", "--index", made / "index", *arguments, code=2)


def test_a_search_of_nothing_names_both_things_that_can_be_searched():
    message = run("search_retrieval", "--text", "dog", code=2)
    assert "--cfg_file RUN" in message and "--index INDEX" in message and message.count("\n") == 1


def test_a_bundle_that_was_moved_is_named_with_an_option(made, index, tmp_path):
    card = json.loads((index / "card.json").read_text())
    (index / "card.json").write_text(json.dumps(card | {"bundle_folder": str(tmp_path / "gone")}))
    message = run("search_retrieval", "--index", index, "--text", "dog", code=2)
    assert "gone, which the index names: tell where it is now with --bundle DIR" in message
    assert "boat" in run("search_retrieval", "--index", index, "--text", "boat", "--bundle", made / "bundle")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"text": "zzzz"}, "no word of 'zzzz'"),
        ({"minus": "zzzz"}, "no word of 'zzzz'"),
        ({"id": "nothing"}, "there is no item 'nothing'"),
        ({"text": "dog", "minus": "dog"}, "the terms cancel each other"),
        ({"image": "nothing.npy"}, "nothing.npy cannot be read"),
        ({"image": "nothing.jpg"}, ""),
        ({"text": "dog", "text_weight": 1e38}, "text_weight: expected a number from -1000 to 1000"),
        ({"text": "dog", "text_weight": "1"}, "text_weight: expected a number from -1000 to 1000"),
        ({"text": "dog", "text_weight": float("nan")}, "text_weight: expected a number from -1000 to 1000"),
    ],
)
def test_a_mistake_of_a_query_names_its_line(made, tmp_path, query, message):
    lines = [json.dumps({"text": "dog"}), "", json.dumps(query), json.dumps({"text": "cat"})]
    (tmp_path / "q.jsonl").write_text("\n".join(lines))
    said = run("search_retrieval", "--index", made / "index", "--queries", tmp_path / "q.jsonl", code=2)
    assert said.startswith(f"error: {tmp_path / 'q.jsonl'} line 3: ") and message in said


@pytest.mark.parametrize(
    "words",
    [
        ["--text", "z" * 100_000],
        ["--id", "z" * 100_000],
        ["--text", "dog" + " dog" * 9999, "--minus", "dog" + " dog" * 9999],
    ],
)
def test_a_query_of_many_letters_is_not_repeated_whole(made, words):
    assert len(run("search_retrieval", "--index", made / "index", *words, code=2)) < 600


def test_mistakes_of_a_build(made, tmp_path):
    build = ["build_index", "--bundle", made / "bundle"]
    gallery = ["--gallery", made / "test_ims.npy"]
    np.save(tmp_path / "narrow.npy", np.ones((3, FEATURES - 1), np.float32))
    for arguments, message in (
        (["--gallery", "nowhere", "--out", "x"], "nowhere: no such file or folder"),
        (["--out", tmp_path / "x"], "--gallery: expected a folder of pictures"),
        (
            [*gallery, "--out", made / "index"],
            "there is an index already: give another --out, or --overwrite",
        ),
        (
            [*gallery, "--out", made, "--overwrite"],
            "--overwrite replaces an index, and this folder holds none",
        ),
        (
            ["--gallery", tmp_path / "narrow.npy", "--out", tmp_path / "x"],
            f"error: {tmp_path / 'narrow.npy'}: features: expected numbers of shape",
        ),
        (["--from", made / "index"], "is of this bundle already: nothing to change"),
        *(
            (
                [*gallery, "--out", tmp_path / "x", "--memory", size],
                "--memory: expected a number of GB above 0",
            )
            for size in ("0", "nan", "inf")
        ),
    ):
        assert message in run(*build, *arguments, code=2)
    assert not (tmp_path / "x").exists()


def test_a_process_that_serves_the_index_answers_the_same(index, made, tmp_path):
    serving = Fork(
        [ROOT / "tools" / "search_retrieval.py", "--index", index, "--serve"],
        ROOT,
        tmp_path / "out",
        tmp_path / "errors",
    )
    try:
        until = time.monotonic() + 120
        while not (tmp_path / "out").exists() or not (tmp_path / "out").read_text():
            assert serving.poll() is None and time.monotonic() < until, (tmp_path / "errors").read_text()
            time.sleep(0.05)
        for arguments, code in (
            (["--text", "red dog", "--top_k", 3], 0),
            (["--text", "zebra"], 2),
            (["--text", "grün 斑马"], 2),
            (["--id", "3.jpg", "--where", "year >= 2005", "--json"], 0),
            (["--where", "x"], 2),
        ):
            served = run("search_retrieval", "--index", index, *arguments, code=code)
            assert served == run("search_retrieval", "--index", made / "index", *arguments, code=code)
        run("change_index", "--index", index, "--delete", "3.jpg")
        assert "there is no item '3.jpg'" in run(
            "search_retrieval", "--index", index, "--id", "3.jpg", code=2
        )
        assert ask(str(index), "/", ["--index", str(index), "--hel"])[0] == 0
        command = [sys.executable, ROOT / "tools" / "search_retrieval.py", "--index", index, "--text", "dog"]
        with open("/dev/full", "wb") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "No space left" in done.stderr
        second = run("search_retrieval", "--index", index, "--serve", code=2)
        assert "another process serves" in second
    finally:
        serving.send_signal(signal.SIGTERM)
    assert serving.wait(60) == 143
    assert not (index / "search.sock").exists()
    assert "  1  " in run("search_retrieval", "--index", index, "--text", "red dog")
