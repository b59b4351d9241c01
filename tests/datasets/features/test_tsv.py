"""TSV files of every kind are read at random, and refused with file and line where they are broken."""

import base64
import gzip
import json
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from config.errors import UserError
from datasets.features.formats import open_features
from datasets.features.tsv import TsvFeatures
from tests.closeness import assert_close, largest
from tests.region_files import check_equal, check_refused, encoded, make_regions, tsv_line, write_tsv

KINDS = ("vinvl", "bottom_up", "lxmert")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_kind_is_told_by_its_columns_and_read_at_random(tmp_path, kind, end):
    images = make_regions([3, 1, 12, 7])
    store = open_features(write_tsv(tmp_path / "features.tsv", images, kind, end))
    assert (len(store), store.dim, store.max_regions, store.image_ids) == (4, 6, 12, list(images))
    assert store.describe() == "1 to 12 regions x 6 features"
    for row in (2, 0, 3, 1):
        found, expected = store[row], images[f"image {row}"]
        if kind == "bottom_up":  # it has no tags
            assert found.tags is None and found.confidences is None
            np.testing.assert_array_equal(found.features, expected.features)
            np.testing.assert_array_equal(found.boxes, expected.boxes)
            assert found.image_size == expected.image_size
        else:
            check_equal(found, expected)


def test_a_batch_is_padded_to_its_own_longest_and_pooled_over_real_regions(tmp_path):
    images = list(make_regions([3, 1, 12, 7]).values())
    store = TsvFeatures(write_tsv(tmp_path / "features.tsv", make_regions([3, 1, 12, 7]), "vinvl"))
    rows = np.array([0, 3, 1])
    padded, pooled = store.gather(rows, pool=False), store.gather(rows, pool=True)
    assert padded.shape == (3, 7, 6) and store.counts(rows).tolist() == [3, 7, 1]
    for place, row in enumerate(rows):
        features = images[row].features
        np.testing.assert_array_equal(padded[place, : len(features)], features)
        assert not padded[place, len(features) :].any()
        scale = np.abs(features).max(axis=0)
        assert_close(pooled[place], features.astype(np.float64).mean(axis=0), len(features) + 1, scale)


def test_moments_weigh_images_equally_whatever_their_regions(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.features.store._BLOCK_BYTES", 12 * 6 * 4 * 2)  # two images a block
    images = make_regions([3, 1, 12, 7, 2])
    store = TsvFeatures(write_tsv(tmp_path / "features.tsv", images, "vinvl"))
    means = np.array([regions.features.astype(np.float64).mean(axis=0) for regions in images.values()])
    for rows in (None, np.array([4, 0, 1])):
        mean, std = store.moments(rows)
        some = means if rows is None else means[rows]
        assert_close(mean, some.mean(axis=0), 12 + len(some), largest([some]))
        assert_close(std, some.std(axis=0), 12 + len(some), largest([some]))


def test_threads_and_other_processes_read_the_same(tmp_path):
    images = make_regions([3, 1, 12, 7])
    store = TsvFeatures(write_tsv(tmp_path / "features.tsv", images, "lxmert"))
    batches = [np.random.default_rng(seed).integers(0, 4, 16) for seed in range(30)]
    expected = [store.gather(rows, pool=True) for rows in batches]
    with ThreadPoolExecutor(4) as pool:
        for read, wanted in zip(
            pool.map(lambda rows: store.gather(rows, True), batches), expected, strict=True
        ):
            np.testing.assert_array_equal(read, wanted)
    sent = pickle.loads(pickle.dumps(store))  # noqa: S301 - as to a process of a loader
    check_equal(sent[2], images["image 2"])


def test_a_missing_index_is_written_as_vinvl_writes_it_and_used(tmp_path, shared):
    shutil.copy(shared / "fixtures/oscar/features.tsv", tmp_path)
    TsvFeatures(tmp_path / "features.tsv")
    written = tmp_path / "features.lineidx"
    assert written.read_bytes() == (shared / "fixtures/oscar/features.lineidx").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features.lineidx", "features.tsv"]
    before = written.stat().st_mtime_ns
    TsvFeatures(tmp_path / "features.tsv")
    assert written.stat().st_mtime_ns == before


def test_an_index_that_cannot_be_written_stays_in_memory(tmp_path, monkeypatch):
    images = make_regions([3, 1])
    path = write_tsv(tmp_path / "features.tsv", images, "vinvl")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.write_text", refuse)
    check_equal(TsvFeatures(path)[1], images["image 1"])
    assert not list(tmp_path.glob("*lineidx*"))


def test_lines_longer_than_a_scan_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.features.positional._SCAN_BYTES", 100)
    images = make_regions([3, 1, 12])
    check_equal(TsvFeatures(write_tsv(tmp_path / "features.tsv", images, "lxmert"))[2], images["image 2"])


def test_a_file_without_a_last_line_end_is_whole(tmp_path):
    images = make_regions([3, 2])
    path = write_tsv(tmp_path / "features.tsv", images, "vinvl")
    path.write_bytes(path.read_bytes()[:-1])
    check_equal(TsvFeatures(path)[1], images["image 1"])


def test_heads_longer_than_usual_are_read(tmp_path):
    images = {"x" * 9000: make_regions([2])["image 0"], "many": make_regions([300], dim=2)["image 0"]}
    images["many"] = make_regions([300])["image 0"]
    store = TsvFeatures(write_tsv(tmp_path / "features.tsv", images, "lxmert"))
    check_equal(store[1], images["many"])
    assert store.image_ids == list(images)


def test_predictions_that_are_not_one_a_region_are_tags_without_boxes(tmp_path):
    images = make_regions([3, 1])
    path = write_tsv(tmp_path / "dev_features.tsv", images, "vinvl")
    line = json.dumps([{"class": "dog"}, {"class": "cat"}])
    (tmp_path / "predictions.tsv").unlink()
    (tmp_path / "dev_predictions.tsv").write_text(f"image 1\t[]\nimage 0\t{line}\n")
    store = TsvFeatures(path)
    found = store[0]
    assert (found.tags, found.boxes, found.confidences, found.image_size) == (
        ["dog", "cat"],
        None,
        None,
        None,
    )
    assert store[1].tags == []


def test_a_gzipped_file_is_for_the_converter(tmp_path):
    images = make_regions([3, 1, 4])
    path = write_tsv(tmp_path / "features.tsv", images, "lxmert")
    packed = tmp_path / "features.tsv.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(UserError, match=r"gunzip it, or convert it.*features\.tsv\.gz features\.h5"):
        open_features(packed)
    store = TsvFeatures(packed)
    for row in (0, 2, 1):
        check_equal(store[row], images[f"image {row}"])
    packed.write_bytes(packed.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"features\.tsv\.gz: cut short or damaged"):
        TsvFeatures(packed)


def with_line(number, line):
    """Return a change of a file that replaces a line, counted from 1."""

    def change(path):
        lines = path.read_text().splitlines(keepends=True)
        lines[number - 1] = line
        path.write_text("".join(lines))

    return change


def with_column(number, column, value):
    """Return a change of a file that replaces a column, counted from 1, of a line."""

    def change(path):
        lines = path.read_text().splitlines(keepends=True)
        columns = lines[number - 1].split("\t")
        columns[column - 1] = value(columns[column - 1])
        lines[number - 1] = "\t".join(columns)
        path.write_text("".join(lines))

    return change


def cut(path, left=30):
    path.write_bytes(path.read_bytes()[:-left])


def index(text):
    return lambda path: path.with_suffix(".lineidx").write_text(text)


def not_base64(text):
    return f"{text[:8]}!{text[9:]}"


def with_nan(text):
    values = np.frombuffer(base64.b64decode(text), dtype=np.float32).copy()
    values[1] = np.nan
    return encoded(values) + ("\n" if text.endswith("\n") else "")


def grow(path):
    TsvFeatures(path)
    path.write_bytes(path.read_bytes() + tsv_line("new", make_regions([2])["image 0"], "vinvl").encode())


def lose_index_line(path):
    TsvFeatures(path)
    first, _, *others = path.with_suffix(".lineidx").read_text().split()
    index("\n".join([first, *others]))(path)


def beside(name, text):
    return lambda path: path.with_name(name).write_text(text)


BROKEN = {
    "empty": ("vinvl", lambda path: path.write_text(""), ["features.tsv: an empty file"]),
    "no such columns": ("vinvl", with_line(1, "a\tb\n"), ["line 1: 2 columns", "6 (image_id, image_w"]),
    "cut short": ("vinvl", cut, ["features.tsv line 4", "characters in the column features", "cut short"]),
    "cut before the features": ("lxmert", lambda path: cut(path, 300), ["line 4", "columns, expected 10"]),
    "a column too few": ("bottom_up", with_line(2, "image 1\t640\t480\t1\n"), ["line 2: 4 columns", "6"]),
    "a count that lies": (
        "vinvl",
        with_column(1, 2, lambda _: "4"),
        ["line 1: 4 boxes", "num_boxes is wrong"],
    ),
    "a count that lies, with boxes": (
        "bottom_up",
        with_column(3, 4, lambda _: "11"),
        ["line 3: 11 boxes, but 256 characters in the column boxes, expected 236"],
    ),
    "a count that is none": ("vinvl", with_column(2, 2, lambda _: "two"), ["line 2: num_boxes b'two'"]),
    "no boxes": (
        "vinvl",
        with_column(2, 2, lambda _: "0"),
        ["line 2: 0 boxes, but 32 characters in the column features", "expected 0"],
    ),
    "no id": ("vinvl", with_column(2, 1, lambda _: " "), ["line 2: an empty image_id"]),
    "an id twice": (
        "vinvl",
        with_column(3, 1, lambda _: "image 1"),
        ["line 3: duplicate image id", "line 2"],
    ),
    "features of another width": (
        "vinvl",
        with_line(2, tsv_line("image 1", make_regions([1], dim=5)["image 0"], "vinvl")),
        ["line 2: 1 boxes, but 28 characters in the column features, expected 32 for 6 values a box"],
    ),
    "an index of another file": (
        "vinvl",
        index("0\n40\n80\n120\n"),
        ["features.lineidx line 5", "of another file"],
    ),
    "an index of fewer lines": ("vinvl", grow, ["features.lineidx line 5", "delete it"]),
    "an index with a line left out": ("vinvl", lose_index_line, ["features.lineidx line 2", "delete it"]),
    "an index out of order": ("vinvl", index("0\n200\n100\n"), ["features.lineidx line 3"]),
    "an index beyond the file": ("vinvl", index("0\n99999999\n"), ["features.lineidx line 2"]),
    "an index that is text": ("vinvl", index("0\nx\n"), ["features.lineidx line 2", "b'x'", "made anew"]),
    "an empty index": ("vinvl", index(""), ["features.lineidx line 1"]),
    "a map of other rows": (
        "vinvl",
        beside("imageid2idx.json", '{"image 0": 0, "image 1": 3}'),
        ["imageid2idx.json: 'image 1' is row 3", "line 2 of"],
    ),
    "a map that is none": ("vinvl", beside("imageid2idx.json", "{"), ["imageid2idx.json line 1: not JSON"]),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_file_is_refused_when_it_is_opened(tmp_path, fault):
    kind, damage, expected = BROKEN[fault]
    path = write_tsv(tmp_path / "features.tsv", make_regions([3, 1, 12, 7]), kind)
    damage(path)
    check_refused(lambda: TsvFeatures(path), expected)


def test_another_width_than_configured_is_refused(tmp_path):
    path = write_tsv(tmp_path / "features.tsv", make_regions([3, 1]), "vinvl")
    check_refused(lambda: TsvFeatures(path, expected_dim=2054), ["6 wide", "IMG_FEATURE_DIM is 2054"])


BROKEN_ROWS = {
    "features": (
        "vinvl",
        with_column(3, 3, not_base64),
        ["features.tsv line 3: bad base64", "12 x 6 values"],
    ),
    "NaN": ("vinvl", with_column(3, 3, with_nan), ["features.tsv: line 3 holds NaN or infinity"]),
    "boxes": ("bottom_up", with_column(3, 5, not_base64), ["line 3: bad base64 in the column boxes"]),
    "NaN boxes": ("bottom_up", with_column(3, 5, with_nan), ["line 3: NaN or infinity in the column boxes"]),
    "classes": ("lxmert", with_column(3, 4, not_base64), ["line 3: bad base64 in the column objects_id"]),
    "unknown classes": (
        "lxmert",
        beside("objects_vocab.txt", "dog\n"),
        ["line 3: objects_id", "one of the 1"],
    ),
    "predictions of other images": (
        "vinvl",
        beside("predictions.tsv", "image 0\t[]\n"),
        ["predictions.tsv: no line for the image 'image 2'"],
    ),
    "predictions without JSON": (
        "vinvl",
        beside("predictions.tsv", "image 0\t[]\nimage 2\t{\n"),
        ["predictions.tsv line 2", "got b'{'"],
    ),
    "predictions without class": (
        "vinvl",
        beside("predictions.tsv", 'image 2\t[{"rect": [0, 0, 1, 1]}]\n'),
        ["predictions.tsv line 1", "each with a class"],
    ),
    "predictions of an endless image": (
        "vinvl",
        beside("predictions.tsv", 'image 2\t{"image_w": 4294967297, "image_h": 5, "objects": []}\n'),
        ["predictions.tsv line 1", "4294967297"],
    ),
    "predictions of a class that is a list": (
        "vinvl",
        beside("predictions.tsv", 'image 2\t[{"class": ["dog"]}]\n'),
        ["predictions.tsv line 1"],
    ),
    "predictions twice": (
        "vinvl",
        beside("predictions.tsv", "image 2\t[]\nimage 2\t[]\n"),
        ["predictions.tsv line 2: duplicate image id 'image 2', also line 1"],
    ),
    "predictions in one column": (
        "vinvl",
        beside("predictions.tsv", "image 2\n"),
        ["predictions.tsv line 1"],
    ),
}


@pytest.mark.parametrize("fault", BROKEN_ROWS)
def test_a_broken_row_is_refused_when_it_is_read_and_others_are_not(tmp_path, fault):
    kind, damage, expected = BROKEN_ROWS[fault]
    path = write_tsv(tmp_path / "features.tsv", make_regions([3, 1, 12, 7]), kind)
    damage(path)
    store = TsvFeatures(path)
    assert store.gather(np.array([0, 1, 3]), pool=True).shape == (3, 6)
    check_refused(lambda: store[2], expected)


def test_a_check_reads_the_rows_of_a_split_alone(tmp_path):
    path = write_tsv(tmp_path / "features.tsv", make_regions([3, 1, 12, 7]), "vinvl")
    with_column(3, 3, with_nan)(path)
    store = TsvFeatures(path)
    store.check(np.array([3, 0, 1]))
    check_refused(store.check, ["line 3 holds NaN"])


def test_a_file_that_shrinks_while_open_is_an_error_not_a_crash(tmp_path):
    path = write_tsv(tmp_path / "features.tsv", make_regions([3, 1]), "vinvl")
    store = TsvFeatures(path)
    cut(path, 20)
    check_refused(lambda: store.gather(np.array([1]), pool=False), ["line 2: bad base64"])


def test_the_genuine_lxmert_file_agrees_with_a_plain_parser(shared, tmp_path):
    packed = shared / "data/butd_tsv/train2014_obj36.tsv.gz"
    path = tmp_path / "train2014_obj36.tsv"
    path.write_bytes(gzip.decompress(packed.read_bytes()))
    shutil.copyfile(shared / "data/vocab/vg_objects_vocab.txt", tmp_path / "objects_vocab.txt")
    names = [line.split(",")[0] for line in (tmp_path / "objects_vocab.txt").read_text().splitlines()]
    store = TsvFeatures(path, expected_dim=2048)
    lines = path.read_bytes().splitlines()
    assert len(store) == len(lines) == 10
    for row, line in enumerate(lines):
        columns = line.decode().split("\t")
        decoded = [base64.b64decode(column) for column in columns[3:7] + columns[8:]]
        found = store[row]
        assert store.image_ids[row] == columns[0]
        assert found.image_size == (int(columns[2]), int(columns[1]))
        assert found.tags == [names[code] for code in np.frombuffer(decoded[0], np.int64)]
        np.testing.assert_array_equal(found.confidences, np.frombuffer(decoded[1], np.float32))
        np.testing.assert_array_equal(found.boxes.ravel(), np.frombuffer(decoded[4], np.float32))
        np.testing.assert_array_equal(found.features.ravel(), np.frombuffer(decoded[5], np.float32))
        width, height = found.image_size
        assert (found.boxes[:, [0, 2]] <= width).all() and (found.boxes[:, [1, 3]] <= height).all()


@pytest.mark.parametrize("split", ["dev", "test"])
def test_natural_oscar_has_the_features_boxes_and_sizes_that_its_box_terms_say(shared, split):
    folder = shared / "data/natural_oscar"
    store = TsvFeatures(folder / f"{split}_features.tsv", expected_dim=262)
    assert store.image_ids == (folder / f"{split}_img_keys.tsv").read_text().split()
    regions = np.load(shared / f"data/natural_regions_precomp/{split}_ims.npy").astype(np.float32)
    for row in range(0, len(store), 7):
        found = store[row]
        np.testing.assert_array_equal(found.features[:, :256], regions[row][:20])
        width, height = found.image_size
        terms = found.boxes / np.array([width, height, width, height], np.float32)
        np.testing.assert_allclose(found.features[:, 256:260], terms, atol=2e-3)
