"""Valid files of any shape, in any language, are read as they were written."""

import csv
import io
import json
import tempfile
import unicodedata
from pathlib import Path

import h5py
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datasets.captions.load import load_captions
from datasets.features.formats import open_features
from datasets.names import composed, match_names
from datasets.pictures.copies import number_pictures
from datasets.pictures.files import PictureFiles
from datasets.pictures.lists import read_label_list
from datasets.words.tokens import TOKENIZERS, tokenize
from datasets.words.vocabulary import Vocabulary
from datasets.words.wordpiece import WordPiece
from engine.weights.tensor_files import read_safetensors, save_safetensors
from tests.closeness import assert_close, largest
from tests.fuzz.readers import Named
from tests.picture_files import encoded, quarters
from tests.region_files import make_regions, write_tsv

quick = settings(
    max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
counts = st.lists(st.integers(0, 6), min_size=1, max_size=7).filter(any)
letters = st.text(st.characters(codec="utf-8", categories=["L", "M", "N"]), min_size=1, max_size=8)
words = st.lists(letters.filter(str.isalnum), min_size=1, max_size=6).map(" ".join)
names = st.lists(
    letters.map(lambda name: composed(f"{name}.jpg")), min_size=1, max_size=6, unique_by=str.casefold
)


@quick
@given(
    counts,
    st.integers(1, 5),
    st.sampled_from(["vinvl", "bottom_up", "lxmert"]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_regions_in_tsv(counts: list[int], dim: int, kind: str, end: str) -> None:
    images = make_regions(counts, dim)
    with tempfile.TemporaryDirectory() as folder:
        store = open_features(write_tsv(Path(folder) / "features.tsv", images, kind, end))
        assert store.counts(np.arange(len(store))).tolist() == counts
        for row, regions in enumerate(images.values()):
            np.testing.assert_array_equal(store[row].features, regions.features)
            np.testing.assert_array_equal(store[row].boxes, regions.boxes)
            assert store[row].tags == (None if kind == "bottom_up" else regions.tags)


@quick
@given(
    counts,
    st.integers(1, 5),
    st.sampled_from(["<f2", "<f4", ">f4", "<f8"]),
    st.sampled_from([{}, {"chunks": True}, {"chunks": True, "compression": "gzip"}]),
    st.booleans(),
)
def test_regions_in_hdf5(counts: list[int], dim: int, dtype: str, options: dict, by_image: bool) -> None:
    images = make_regions(counts, dim)
    with tempfile.TemporaryDirectory() as folder:
        with h5py.File(f"{folder}/f.h5", "w") as file:
            if by_image:
                for name, regions in images.items():
                    file[f"{name}_features"] = regions.features.astype(dtype)
            else:
                values = np.concatenate([regions.features for regions in images.values()])
                file.create_dataset("features", data=values.astype(dtype), **options)
                file["offsets"], file["ids"] = np.cumsum([0, *counts]), list(images)
        store = open_features(f"{folder}/f.h5")
        pooled = store.gather(np.arange(len(counts)), pool=True)
        for row, (name, regions) in enumerate(images.items()):
            stored = regions.features.astype(dtype).astype(np.float32)
            assert store.image_ids[row] == name
            np.testing.assert_array_equal(store[row].features, stored)
            mean = stored.mean(axis=0) if counts[row] else np.zeros(dim)
            assert_close(pooled[row], mean, counts[row] + 1, largest(stored) if counts[row] else 1.0)


@quick
@given(
    st.lists(st.integers(1, 4), min_size=2, max_size=3),
    st.sampled_from(["<f2", "<f4", ">f4", "<f8"]),
    st.sampled_from([(1, 0), (2, 0), (3, 0)]),
)
def test_arrays_in_npy(shape: list[int], dtype: str, version: tuple[int, int]) -> None:
    values = np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)
    with tempfile.TemporaryDirectory() as folder:
        with open(f"{folder}/x.npy", "wb") as file:
            np.lib.format.write_array(file, values, version)
        if np.dtype(dtype).isnative:
            store = open_features(f"{folder}/x.npy")
            np.testing.assert_array_equal(store.gather(np.arange(shape[0]), False), values.astype(np.float32))


@quick
@given(names, st.data(), st.sampled_from(["csv", "records", "object", "karpathy", "coco"]), st.booleans())
def test_captions_of_every_format(
    names: list[str], data: st.DataObject, format: str, decomposed: bool
) -> None:
    texts = [data.draw(st.lists(words, min_size=1, max_size=3)) for _ in names]
    pairs = [(name, text) for name, own in zip(names, texts, strict=True) for text in own]
    file = {
        "records": [{"image": name, "caption": text} for name, text in pairs],
        "object": dict(zip(names, texts, strict=True)),
        "karpathy": {
            "images": [
                {"filename": name, "split": "test", "sentences": [{"raw": text} for text in own]}
                for name, own in zip(names, texts, strict=True)
            ]
        },
        "coco": {
            "images": [{"id": row, "file_name": name} for row, name in enumerate(names)],
            "annotations": [{"image_id": names.index(name), "caption": text} for name, text in pairs],
        },
    }
    if format == "csv":
        buffer = io.StringIO(newline="")
        csv.writer(buffer).writerows([("image", "caption"), *pairs])
        text = buffer.getvalue()
    else:
        text = json.dumps(file[format], ensure_ascii=bool(len(names) % 2))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "test.x").write_text(text, encoding="utf-8", newline="")
        known = [unicodedata.normalize("NFD", name) if decomposed else name for name in names]
        kind = format if format in ("csv", "karpathy") else "json"
        split = load_captions(kind, folder, "test", "{split}.x", Named(known[::-1], len(known)))
    assert split.image_ids == names
    assert split.image_rows.tolist() == list(range(len(names)))[::-1]
    assert split.captions == [text.strip() for _, text in pairs]
    assert [names[image] for image in split.caption_image] == [name for name, _ in pairs]


@quick
@given(names, st.data(), st.sampled_from([" ", "\t", ",", ";", "|"]))
def test_lists_of_labels(names: list[str], data: st.DataObject, mark: str) -> None:
    labels = [data.draw(letters.map(str.strip).filter(bool)) for _ in names]
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            (Path(folder) / name).write_bytes(PICTURE)
        text = "".join(f"{name}{mark}{label}\n" for name, label in zip(names, labels, strict=True))
        (Path(folder) / "list").write_text(text, encoding="utf-8")
        found = read_label_list(Path(folder) / "list", PictureFiles(folder))
    assert found.names == names
    # Two ways to write one letter would make two classes of one.
    assert [found.class_names[label] for label in found.labels] == [composed(label) for label in labels]


PICTURE = encoded(quarters(4, 4))


@quick
@given(st.lists(st.text(max_size=30), min_size=1, max_size=6))
def test_text_of_any_kind_has_tokens(texts: list[str]) -> None:
    for tokenizer in TOKENIZERS:
        for text in texts:
            tokens = tokenize(text, tokenizer)
            assert all(tokens)
            for form in ("NFC", "NFD"):
                assert tokenize(unicodedata.normalize(form, text), tokenizer) == tokens
    pieces = WordPiece.build(texts, characters=True)
    for text in texts:
        ids = pieces.encode(text)
        assert ids[1:-1] == pieces.encode_all([text]).ids.tolist()
        assert ids == pieces.encode(unicodedata.normalize("NFD", text))


@quick
@given(
    st.lists(words, min_size=1, max_size=6),
    st.sampled_from(list(TOKENIZERS)),
    st.sampled_from(["vse", "vsepp"]),
)
def test_vocabularies(texts: list[str], tokenizer: str, layout: str) -> None:
    built = Vocabulary.build(texts, tokenizer, 1, layout)
    with tempfile.TemporaryDirectory() as folder:
        built.save(f"{folder}/v.json")
        read = Vocabulary.load(f"{folder}/v.json")
    assert (read.words, read.digest) == (built.words, built.digest)
    for text in texts:
        assert built.unk_id not in read.encode(unicodedata.normalize("NFD", text))


@quick
@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=8),
        st.tuples(
            st.lists(st.integers(0, 4), max_size=3),
            st.sampled_from(["float16", "float32", "float64", "int8", "int64", "bool"]),
            st.booleans(),
        ),
        max_size=5,
    )
)
def test_safetensors(tensors: dict[str, tuple[list[int], str, bool]]) -> None:
    arrays = {}
    for name, (shape, dtype, turned) in tensors.items():
        values = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
        arrays[name] = values.T if turned else values
    with tempfile.TemporaryDirectory() as folder:
        save_safetensors(Path(folder) / "m.safetensors", arrays)
        found = read_safetensors(Path(folder) / "m.safetensors")
    assert found.keys() == arrays.keys()
    for name, values in arrays.items():
        np.testing.assert_array_equal(found[name], values)
        assert found[name].dtype == values.dtype and found[name].shape == values.shape


@quick
@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.booleans())
def test_pictures_are_the_same_where_their_bytes_are(contents: list[int], packed: bool) -> None:
    import zipfile

    with tempfile.TemporaryDirectory() as folder:
        pictures = {
            f"{place}.png": b"x" * (1 + content % 2) + bytes([content])
            for place, content in enumerate(contents)
        }
        for name, data in pictures.items():
            (Path(folder) / name).write_bytes(data)
        other = Path(folder)
        if packed:
            other = Path(folder) / "p.zip"
            with zipfile.ZipFile(other, "w") as file:
                for name, data in pictures.items():
                    file.writestr(name, data)
        sets = [PictureFiles(folder), PictureFiles(other)]
        first, second = number_pictures(*((files, files.names) for files in sets))
    for numbers in (first, second):
        same = numbers[:, None] == first[None]
        np.testing.assert_array_equal(same, np.equal.outer(contents, contents))


@quick
@given(names, st.randoms(use_true_random=False))
def test_names_in_any_order_and_form(names: list[str], random) -> None:
    order = random.sample(range(len(names)), len(names))
    rows = {
        random.choice([str, lambda name: unicodedata.normalize("NFD", name)])(names[at]): row
        for row, at in enumerate(order)
    }
    assert match_names([names], rows) == [order.index(at) for at in range(len(names))]
