"""Captions meet their photos, and everything wrong with either is found at once."""

import os
import unicodedata

import numpy as np
import pytest

from config.errors import UserError
from datasets.pictures.files import PictureFiles
from datasets.preparation.checks import check_captions, check_photos, check_repeated
from datasets.preparation.near_duplicates import ALIKE, BITS, find_alike, group_alike
from datasets.preparation.photos import Seen, look_at_photos, write_record
from datasets.preparation.problems import (
    AMBIGUOUS,
    EMPTY,
    LETTERLESS,
    LOOK_ALIKE,
    MISSING,
    NEAR_DUPLICATES,
    REPEATED,
    SAME_NAME,
    TWICE,
    TWO_SPLITS,
    UNCAPTIONED,
    UNKNOWN_SPLIT,
    UNREADABLE,
    UNUSABLE_NAME,
    UNUSUAL,
    Problems,
)
from datasets.preparation.splits import split_photos
from datasets.preparation.tables import Row
from tests.picture_files import encoded, noisy, write_folder, write_zip

PHOTO = encoded(noisy(64, 48), "JPEG")


def random_seen(names: list[str], seed: int = 0) -> dict[str, Seen]:
    random = np.random.default_rng(seed)
    return {name: Seen((1, 1), random.random(BITS) < 0.5) for name in names}


def test_every_kind_of_problem_is_found_in_one_pass(tmp_path) -> None:
    nfd = unicodedata.normalize("NFD", "café.jpg")
    pictures = {
        "a/1.jpg": PHOTO,
        "b/1.jpg": PHOTO,
        "c.jpg": PHOTO,
        nfd: PHOTO,
        "C.JPG": PHOTO,
        "bare.png": PHOTO,
    }
    pictures |= {"broken.jpg": PHOTO[:200], "IMG_1.HEIC": b"x", "notes.txt": b"x"}
    files = PictureFiles(write_folder(tmp_path, pictures))
    problems = Problems()
    usable = check_photos(files, look_at_photos(files, tmp_path / "record", 2), problems)
    assert usable == ["C.JPG", "a/1.jpg", "b/1.jpg", "bare.png", nfd]
    rows = [
        Row("line 2", "café.jpg", "a  cup\nof coffee", "train"),
        Row("line 3", "café.jpg", "another", "val"),
        Row("line 4", "1.jpg", "which one", "train"),
        Row("line 5", "none.jpg", "nothing", "train"),
        Row("line 6", "a/1.jpg", " ", "train"),
        Row("line 7", "a/1.jpg", "12:30!", "train"),
        Row("line 8", "b\\1.JPG", "x", "test"),
        Row("line 9", "b\\1", "猫", "testing"),
        Row("line 10", "C", "x", "holdout"),
        Row("line 11", "C", "x", ""),
        Row("line 12", "broken.jpg", "a broken picture", "train"),
        Row("line 13", "img_1.heic", "a photo of another format", "train"),
        Row("line 14", "café.jpg", "a cup of coffee", "train"),
    ]
    captioned = check_captions(rows, files, usable, problems)
    assert captioned.captions == {nfd: ["a cup of coffee", "a cup of coffee"], "b/1.jpg": ["x", "猫"]}
    assert captioned.split == {nfd: "train", "b/1.jpg": "test"}
    assert problems.found == {
        UNUSUAL: ["IMG_1.HEIC"],
        UNREADABLE: [problems.found[UNREADABLE][0]],
        SAME_NAME: ["c.jpg and C.JPG"],
        TWO_SPLITS: ["line 3: café.jpg: dev, and train before"],
        AMBIGUOUS: ["line 4: 1.jpg: a/1.jpg and b/1.jpg"],
        MISSING: ["line 5: none.jpg"],
        EMPTY: ["line 6: a/1.jpg"],
        LETTERLESS: ["line 7: a/1.jpg: 12:30!"],
        UNKNOWN_SPLIT: ["line 10: C: holdout", "line 11: C: empty"],
        TWICE: [f"line 14: {nfd}: a cup of coffee"],
        UNCAPTIONED: ["C.JPG", "a/1.jpg", "bare.png"],
    }
    assert problems.found[UNREADABLE][0].startswith("broken.jpg: ")
    assert problems.stops == 10


def test_links_that_lead_nowhere_and_names_that_are_no_text_are_problems(tmp_path) -> None:
    folder = write_folder(tmp_path / "photos", {"a.jpg": PHOTO, " b.jpg": PHOTO})
    (folder / "link.jpg").symlink_to(folder / "gone.jpg")
    with open(os.fsencode(folder) + b"/\xff.jpg", "wb") as file:
        file.write(PHOTO)
    files, problems = PictureFiles(folder), Problems()
    seen = look_at_photos(files, tmp_path / "record", 1)
    write_record(tmp_path / "record", seen)
    assert check_photos(files, look_at_photos(files, tmp_path / "record", 1), problems) == ["a.jpg"]
    assert problems.found == {
        UNUSABLE_NAME: ["' b.jpg'", r"'\udcff.jpg'"],
        UNREADABLE: ["link.jpg: No such file or directory"],
    }


def test_the_list_shows_ten_of_each_kind_and_the_report_all() -> None:
    problems = Problems()
    for number in range(50_000):
        problems.add(MISSING, f"line {number}: \x1b[31m{number}.jpg")
    shown, whole = list(problems.list_first()), list(problems.list_all())
    assert shown[0].startswith("problem: 50,000 captions of pictures that are not there: add the pictures")
    assert shown[1] == r"  line 0: \x1b[31m0.jpg" and shown[-1] == "  and 49,990 more" and len(shown) == 12
    assert len(whole) == 50_001


def test_repeated_sentences_are_those_of_training_alone() -> None:
    captions = {"a": ["A dog", "x"], "b": ["a dog"], "c": ["y", "a DOG"], "d": ["y"]}
    problems = Problems()
    check_repeated(captions, {"a": "train", "b": "train", "c": "test", "d": "dev"}, problems)
    assert problems.found == {REPEATED: ["test: a dog"]}


def test_looks_are_kept_and_changed_files_are_seen_again(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("datasets.preparation.photos._SECONDS", -1)
    folder = write_folder(tmp_path / "photos", {f"{number}.jpg": PHOTO for number in range(40)})
    record = tmp_path / "record.json"
    first = look_at_photos(PictureFiles(folder), record, 1)
    (folder / "7.jpg").write_bytes(b"")
    looked: list[str] = []
    monkeypatch.setattr(
        "datasets.preparation.photos._look_at",
        lambda files, name: looked.append(name) or Seen(tuple(files.fingerprint(name)), None, "zero bytes"),
    )
    again = look_at_photos(PictureFiles(folder), record, 1)
    # The record was written before the last batch was seen.
    assert "7.jpg" in looked and len(looked) < 40 and again["7.jpg"].problem == "zero bytes"
    kept = [name for name in again if name not in looked]
    assert all((again[name].hash == first[name].hash).all() for name in kept)
    record.write_text("[1, 2")
    look_at_photos(PictureFiles(folder), record, 1)


def test_a_zip_file_is_seen_like_its_folder(tmp_path) -> None:
    pictures = {f"{number}.jpg": encoded(noisy(64, 48, number), "JPEG") for number in range(3)}
    folder, archive = write_folder(tmp_path / "a", pictures), write_zip(tmp_path / "a.zip", pictures)
    seen = [look_at_photos(PictureFiles(path), tmp_path / "r", 1) for path in (folder, archive)]
    assert all((seen[0][name].hash == seen[1][name].hash).all() for name in pictures)


def test_copies_look_alike_whatever_their_size_and_quality_and_others_do_not(tmp_path) -> None:
    original = noisy(320, 240, 1)
    pictures = {
        "a.png": encoded(original),
        "b.jpg": encoded(original.resize((160, 120)), "JPEG", quality=40),
        "c.jpg": encoded(original.convert("L"), "JPEG"),
    } | {f"other{number}.jpg": encoded(noisy(320, 240, number), "JPEG") for number in range(2, 30)}
    files = PictureFiles(write_folder(tmp_path, pictures))
    seen = look_at_photos(files, tmp_path / "r", 1)
    pairs = find_alike(np.stack([seen[name].hash for name in files.names]))
    assert {tuple(files.names[index] for index in pair) for pair in pairs.tolist()} == {
        ("a.png", "b.jpg"),
        ("a.png", "c.jpg"),
        ("b.jpg", "c.jpg"),
    }


def test_pairs_are_those_that_a_loop_finds(monkeypatch) -> None:
    monkeypatch.setattr("datasets.preparation.near_duplicates._BLOCK", 7)
    random = np.random.default_rng(0)
    hashes = random.random((30, BITS)) < 0.5
    for first, second, bits in ((3, 20, ALIKE), (4, 5, ALIKE + 1), (0, 29, 0), (20, 28, 5)):
        hashes[second] = hashes[first]
        hashes[second, random.permutation(BITS)[:bits]] ^= True
    expected = [
        [first, second]
        for first in range(30)
        for second in range(first + 1, 30)
        if (hashes[first] != hashes[second]).sum() <= ALIKE
    ]
    pairs = find_alike(hashes)
    assert sorted(pairs.tolist()) == expected and [3, 20] in expected and [4, 5] not in expected
    group = group_alike(30, pairs)
    assert group[[3, 20, 28]].tolist() == [3, 3, 3] and group[[0, 29]].tolist() == [0, 0]
    assert group_alike(5, np.array([[3, 4], [2, 3], [1, 2]])).tolist() == [0, 1, 1, 1, 1]


def test_splits_are_seeded_have_their_shares_and_keep_groups_together() -> None:
    names = [f"{number}.jpg" for number in range(100)]
    seen = random_seen(names)
    for copy in range(90, 100):
        seen[f"{copy}.jpg"] = seen[f"{copy - 10}.jpg"]
    split, groups = split_photos(names, seen, {}, (0.1, 0.2), 5, problems := Problems())
    counts = [sum(own == name for own in split.values()) for name in ("train", "dev", "test")]
    assert counts == [70, 10, 20] and groups == 10 and not problems.found
    assert all(split[f"{copy}.jpg"] == split[f"{copy - 10}.jpg"] for copy in range(90, 100))
    assert split == split_photos(names, seen, {}, (0.1, 0.2), 5, Problems())[0]
    assert split != split_photos(names, seen, {}, (0.1, 0.2), 6, Problems())[0]


def test_given_splits_stand_and_new_photos_follow_their_copies() -> None:
    names = [f"{number}.jpg" for number in range(40)]
    given = {name: ("train", "dev", "test", "train")[number % 4] for number, name in enumerate(names[:20])}
    seen = random_seen(names)
    seen["30.jpg"], seen["31.jpg"] = seen["2.jpg"], seen["1.jpg"]
    seen["3.jpg"] = seen["5.jpg"]
    split, _ = split_photos(names, seen, given, (0.1, 0.1), 1, problems := Problems())
    assert all(split[name] == given[name] for name in given)
    assert (split["30.jpg"], split["31.jpg"]) == ("test", "dev")
    assert problems.found == {NEAR_DUPLICATES: ["5.jpg (dev) and 3.jpg (train)"]}


def test_a_split_that_the_file_lacks_is_drawn_from_training() -> None:
    names = [f"{number}.jpg" for number in range(40)]
    given = {name: "test" if number < 10 else "train" for number, name in enumerate(names)}
    split, _ = split_photos(names, random_seen(names), given, (0.1, 0.1), 1, Problems())
    assert [sum(own == name for own in split.values()) for name in ("train", "dev", "test")] == [26, 4, 10]
    assert all(split[name] == "test" for name in names[:10])
    with pytest.raises(UserError, match="the pictures are of test alone, expected train among their splits"):
        split_photos(names, random_seen(names), dict.fromkeys(names, "test"), (0.1, 0.1), 1, Problems())


def test_a_large_group_that_looks_alike_is_told_and_taken_apart() -> None:
    names = [f"{number}.png" for number in range(30)]
    seen = dict.fromkeys(names, random_seen(["x"])["x"])
    split, _ = split_photos(names, seen, {}, (0.1, 0.1), 1, problems := Problems())
    assert problems.found == {LOOK_ALIKE: ["30 pictures, such as 0.png and 1.png"]}
    assert set(split.values()) == {"train", "dev", "test"}
    with pytest.raises(
        UserError, match="2 pictures with captions, expected at least one for each of train, dev"
    ):
        split_photos(names[:2], seen, {}, (0.1, 0.1), 1, Problems())
