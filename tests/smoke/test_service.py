"""The service as a process: started with photos alone, called by curl and a client, switched, and ended."""

import json
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from config.files.networks import read_backbone
from engine.extraction.recorded import record_of_backbone
from serving.app.client import Client, RefusedError
from tests.bundle_files import COLOURS, FEATURES, features_of, write_bundle, write_pixel_bundle
from tests.forks import run_forked
from tests.onnx_networks import backbone_yaml, write_many_means
from tests.picture_files import encoded, noisy, write_folder
from tests.served import Served

pytest.importorskip("fastapi", reason="the service needs requirements-service.txt")

ROOT = Path(__file__).resolve().parents[2]
KEY = "the key of this test"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Return a folder with photos, what is known of them, and a bundle."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "photos").mkdir()
    lines = []
    for number, (name, colour) in enumerate(COLOURS.items()):
        Image.new("RGB", (60, 40), colour).save(folder / "photos" / f"{name}_{number}.png")
        lines.append({"id": f"{name}_{number}.png", "caption": name, "metadata": {"number": number}})
    (folder / "about.jsonl").write_text("\n".join(map(json.dumps, lines)))
    write_pixel_bundle(folder / "bundle")
    (folder / "key.txt").write_text(KEY)
    return folder


@pytest.fixture(scope="module")
def served(made):
    """Return a service that was started with photos and a bundle alone."""
    index = "--photos", made / "photos", "--bundle", made / "bundle", "--captions", made / "about.jsonl"
    service = Served(made, *index, "--key_file", made / "key.txt")
    yield service
    if service.process.poll() is None:
        service.end()


def test_photos_and_a_bundle_are_enough_and_the_second_start_indexes_nothing(made, served):
    assert "photos.index: indexing 6 items" in served.lines[0]
    assert Client(served.address).search("red", k=1)["hits"][0]["id"] == "red_0.png"
    again = Served(made, "--photos", made / "photos", "--bundle", made / "bundle")
    assert not any("indexing" in line for line in again.lines)
    assert Client(again.address).info()["count"] == 6
    again.end()


def test_features_show_the_photos_that_were_prepared_and_a_line_says_where_none_are_known(tmp_path):
    write_bundle(tmp_path / "bundle")
    write_folder(
        tmp_path / "photos", {f"{row}.jpg": encoded(noisy(60, 40, seed=row), "JPEG") for row in (0, 1)}
    )
    for name in ("prepared", "plain"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "test_ims.npy", features_of(["red dog", "blue cat"]))
        if name == "prepared":
            (tmp_path / name / "prepared.json").write_text(json.dumps({"images": str(tmp_path / "photos")}))
        gallery = "--gallery", tmp_path / name / "test_ims.npy", "--out", tmp_path / f"{name}.index"
        done = run_forked(ROOT / "tools" / "build_index.py", "--bundle", tmp_path / "bundle", *gallery)
        assert done.returncode == 0, done.stderr
    service = Served(tmp_path, "--index", tmp_path / "prepared.index", "--index", tmp_path / "plain.index")
    told = [line for line in service.lines if "no pictures are shown" in line]
    assert told == ["plain.index: no pictures are shown: name their folder with --pictures FOLDER\n"]
    client = Client(service.address)
    first = client.search("red dog", k=1)["hits"][0]
    assert first["id"] == "0" and first["thumbnail"] and client.thumbnail("0").startswith(b"\xff\xd8")
    service.end()


def test_photos_go_through_the_backbone_that_the_bundle_names(tmp_path):
    """Photos are indexed, looked for and added; where the network has gone, the service goes on without."""
    network = write_many_means(tmp_path / "means.onnx", 8, FEATURES)
    backbone = read_backbone(backbone_yaml(tmp_path / "means.yaml", network))
    write_bundle(tmp_path / "bundle", extraction=record_of_backbone(backbone))
    write_folder(tmp_path / "few", {f"{n}.jpg": encoded(noisy(60, 40, seed=n), "JPEG") for n in range(5)})
    (tmp_path / "key.txt").write_text(KEY)
    photos = "--photos", tmp_path / "few", "--bundle", tmp_path / "bundle"
    away = network.rename(tmp_path / "away.onnx")
    done = run_forked(ROOT / "tools" / "serve_retrieval.py", *photos, "--port", "0")
    assert done.returncode == 2 and "means.onnx: no such file, expected a network" in done.stderr
    assert not (tmp_path / "few.index").exists()
    away.rename(network)
    service = Served(tmp_path, *photos, "--key_file", tmp_path / "key.txt")
    client, other = Client(service.address, KEY), tmp_path / "other.jpg"
    other.write_bytes(encoded(noisy(60, 40, seed=99), "JPEG"))
    assert client.info()["reads_pictures"]
    first = client.search_picture(tmp_path / "few" / "3.jpg", k=1)["hits"][0]
    assert first["id"] == "3.jpg" and first["score"] == pytest.approx(1, abs=1e-5)
    assert client.put("other", other)["done"] == "added"
    assert client.search_picture(other, k=1)["hits"][0]["id"] == "other"
    other.write_bytes(other.read_bytes()[:300])
    with pytest.raises(RefusedError, match="unreadable picture"):
        client.search_picture(other)
    service.end()
    network.rename(away)
    service = Served(tmp_path, "--index", tmp_path / "few.index")
    client = Client(service.address)
    assert not client.info()["reads_pictures"] and client.search("red", k=1)["hits"]
    with pytest.raises(RefusedError, match="which means.yaml made: extract them"):
        client.search_picture(tmp_path / "few" / "3.jpg")
    service.end()
    assert "few.index: no pictures are taken, as queries or items: " in (tmp_path / "log.txt").read_text()


def test_the_lines_of_the_docs_run(made, served, tmp_path):
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    text = (ROOT / "docs" / "service.md").read_text(encoding="utf-8")
    lines = re.search(r"```bash\n(.*?)```", text, re.DOTALL)[1].splitlines()
    assert len(lines) > 10
    Image.new("RGB", (30, 20), COLOURS["blue"]).save(tmp_path / "my.jpg")
    shutil.copy(made / "key.txt", tmp_path)
    version = subprocess.run(["curl", "--version"], capture_output=True, text=True).stdout.split()[1]
    if tuple(map(int, version.split(".")[:2])) < (7, 82):
        pytest.skip("curl knows --json from 7.82 on")
    variables = re.search(r"^ADDRESS=\S+ KEY=.*$", text, re.MULTILINE)[0]
    variables = re.sub(r"ADDRESS=\S+", f"ADDRESS={served.address}", variables)
    script = ["set -euo pipefail", variables, *lines]
    done = subprocess.run(["bash", "-xc", "\n".join(script)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-1000:]
    assert Image.open(tmp_path / "small.jpg").size == (60, 40)


def test_the_client_searches_changes_and_hears_of_refusals(made, served, tmp_path):
    client = Client(served.address, KEY)
    Image.new("RGB", (30, 20), COLOURS["green"]).save(tmp_path / "a picture.png")
    assert client.put("mine/ä.png", tmp_path / "a picture.png", "mine", {"year": 3})["done"] == "added"
    assert "mine/ä.png" in [hit["id"] for hit in client.search("green", k=2)["hits"]]
    assert client.search_picture(tmp_path / "a picture.png", k=1)["hits"][0]["caption"] in ("green", "mine")
    assert client.search("green", minus="red", where="year = 3")["hits"][0]["metadata"] == {"year": 3}
    client.describe("mine/ä.png", "other", {})
    assert client.item("mine/ä.png")["caption"] == "other"
    assert client.thumbnail("mine/ä.png").startswith(b"\xff\xd8")
    client.delete("mine/ä.png")
    with pytest.raises(RefusedError) as refused:
        client.item("mine/ä.png")
    assert (refused.value.status, refused.value.code) == (404, "unknown")


def test_a_switch_to_another_model_loses_no_request(made, served, tmp_path):
    """Queries go on in three threads while the index is encoded by another bundle, and all are answered."""
    other = write_pixel_bundle(tmp_path / "other")
    description = json.loads((other / "model.json").read_text())
    from config.files.bundles import write_description

    (other / "model.json").unlink()
    kept = {name: value for name, value in description.items() if name not in ("checksum", "files", "format")}
    write_description(other, kept | {"family": "vse"})
    client, ended, answers = Client(served.address), threading.Event(), []

    def ask() -> None:
        while not ended.is_set():
            answer = client.search("red", k=1)
            answers.append((answer["model"], answer["hits"][0]["id"]))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    before = client.info()["model"]
    done = run_forked(
        ROOT / "tools" / "build_index.py", "--bundle", other, "--from", made / "photos.index",
        "--captions", made / "about.jsonl",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    deadline = time.monotonic() + 60
    while client.info()["model"] == before and time.monotonic() < deadline:
        time.sleep(0.05)
    count = len(answers)
    while len(answers) < count + 6 and any(thread.is_alive() for thread in threads):
        time.sleep(0.05)
    ended.set()
    for thread in threads:
        thread.join()
    models = list(dict.fromkeys(model for model, _ in answers))
    assert models[0] == before and len(models) == 2
    assert {identity for _, identity in answers} == {"red_0.png"}


def test_the_end_waits_for_a_request_that_has_begun(made):
    service = Served(made, "--index", made / "photos.index")
    host, port = service.address.removeprefix("http://").split(":")
    body = b'{"terms": [{"text": "red"}]}'
    head = f"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    head += "Content-Type: application/json\r\nConnection: close\r\n\r\n"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + body[:5])
        time.sleep(0.5)
        service.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        connection.sendall(body[5:])
        with connection.makefile("rb") as answer:
            assert b"200 OK" in answer.readline()
            assert b'"red_0.png"' in answer.read()
    assert service.process.wait(60) in (0, -signal.SIGTERM, 128 + signal.SIGTERM)
    service.process.stdout.close()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "--index INDEX"),
        (["--photos", "photos"], "--bundle DIR"),
        (["--index", "none"], "no card.json"),
        (["--index", "photos.index", "--host", "0.0.0.0"], "--key_file"),
        (["--index", "photos.index", "--key_file", "none"], "--key_file: none"),
        (["--index", "photos.index", "--pictures", "none"], "--pictures"),
        (["--index", "photos.index", "--port", "70000"], "--port"),
        (["--index", "photos.index", "--rerank", "none"], "none"),
    ],
)
def test_wrong_arguments_are_one_line(made, served, arguments, told):
    done = run_forked(ROOT / "tools" / "serve_retrieval.py", *arguments, cwd=made)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ") and told in done.stderr


def test_a_port_that_is_taken_is_one_line(made, served):
    port = served.address.rpartition(":")[2]
    done = run_forked(
        ROOT / "tools" / "serve_retrieval.py", "--index", made / "photos.index", "--port", port, cwd=made
    )
    assert done.returncode == 2 and done.stderr.startswith("error: --port") and done.stderr.count("\n") == 1
