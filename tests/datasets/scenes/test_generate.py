"""Captions of Scenes are true of their pictures, and test splits hold nothing that training has seen."""

import json
import re
import resource
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

from config.errors import UserError
from datasets.captions.swapped import SwappedPair, load_swapped
from datasets.scenes.generate import ScenesOptions, make_scenes
from datasets.scenes.layout import (
    COLOURS,
    FAMILY,
    PATTERNS,
    SHAPES,
    SIZES,
    SPLITS,
    TINTS,
    Scene,
    SceneObject,
    sample_scene,
)
from datasets.scenes.pictures import draw_scene
from datasets.scenes.regions import APPEARANCE_DIM, FEATURE_DIM, NUM_REGIONS, detect_regions, region_features

ROOT = Path(__file__).resolve().parents[3]
COUNTS = {"train": 96, "dev": 32, "test": 32}
SYNONYMS = {"disc": "circle", "box": "square", "plus": "cross", "hoop": "ring", "rhombus": "diamond"}
SIZE_WORDS = {"little": "small", "tiny": "small", "big": "large", "huge": "large"}
PATTERN_WORDS = {"stripes": "striped", "dots": "dotted", "checks": "checkered"}
# Checked against the tight boxes of the objects: (first x1, y1, x2, y2), (second x1, y1, x2, y2).
RELATIONS = {
    "left": lambda a, b: a[0] + a[2] < b[0] + b[2],
    "right": lambda a, b: a[0] + a[2] > b[0] + b[2],
    "above": lambda a, b: a[1] + a[3] < b[1] + b[3],
    "below": lambda a, b: a[1] + a[3] > b[1] + b[3],
    "bigger": lambda a, b: area(a) > area(b),
    "smaller": lambda a, b: area(a) < area(b),
}
PHRASES = [  # of the first object mentioned towards the second
    ("left", r"\b(is |sits )?(left of|to the left of|on the left side of)"),
    ("right", r"\b(is |sits )?(right of|to the right of|on the right side of)"),
    ("above", r"\b(above (an?|the)|higher up than)\b"),
    ("below", r"\b(below|under|beneath) (an?|the)\b"),
    ("right", r"(on|to) its left"),
    ("left", r"(on|to) its right"),
    ("below", r"\b(above|over) it"),
    ("above", r"\b(below|under) it"),
    ("bigger", r"is bigger than"),
    ("smaller", r"is smaller than"),
]
NOUN = re.compile(rf"(?:(\w+) )?\b({'|'.join(COLOURS)}) ({'|'.join((*SHAPES, *SYNONYMS))})\b")


def area(box: list[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def mentions(caption: str) -> list[tuple[str | None, str, str]]:
    """Return (size, colour, shape) of the objects that a caption names, in order."""
    found = []
    for size, colour, shape in NOUN.findall(caption):
        size = SIZE_WORDS.get(size, size)
        found.append((size if size in SIZES else None, colour, SYNONYMS.get(shape, shape)))
    return found


def is_true(caption: str, scene: dict) -> bool:
    """Check a caption against what was drawn: objects, sizes, background, number, relation."""
    everything = [item["box"] for item in scene["objects"]]
    matching = [
        [
            item["box"]
            for item in scene["objects"]
            if (item["colour"], item["shape"]) == (colour, shape) and size in (None, item["size"])
        ]
        for size, colour, shape in mentions(caption)
    ]
    if caption.startswith("something"):
        matching.insert(0, everything)
    if "another shape" in caption:
        matching.append(everything)
    relations = [RELATIONS[kind] for kind, phrase in PHRASES if re.search(phrase, caption)]
    # Of objects of one colour and shape, it is enough that one pair stands so.
    related = not relations or any(relations[0](a, b) for a in matching[0] for b in matching[1])

    words = set(re.findall(r"\w+", caption))
    singular = {re.sub(r"(?<=[sx])es$|(?<!s)s$", "", word) for word in words}
    shapes = {SYNONYMS.get(word, word) for word in singular} & set(SHAPES)
    patterns = {PATTERN_WORDS.get(word, word) for word in words} & set(PATTERNS)
    number = {"two": 2, "both": 2, "three": 3}
    return (
        all(matching)
        and related
        and shapes <= {item["shape"] for item in scene["objects"]}
        and words & set(COLOURS) <= {item["colour"] for item in scene["objects"]}
        and patterns <= {scene["pattern"]}
        and words & set(TINTS) <= {scene["tint"]}
        and all(len(scene["objects"]) == number[word] for word in words & set(number))
        and (len(scene["objects"]) == 1 or not words & {"single", "only", "alone", "nothing", "just"})
    )


def read_scenes(folder: Path, split: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{split}_scenes.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scenes") / "data"
    assert make_scenes(path, ScenesOptions(**COUNTS, image_size=64))
    return path


@pytest.mark.parametrize("split", SPLITS)
def test_every_file_has_the_size_asked_for(folder: Path, split: str) -> None:
    count = COUNTS[split]
    features, boxes = np.load(folder / f"{split}_ims.npy"), np.load(folder / f"{split}_boxes.npy")
    assert features.shape == (count, NUM_REGIONS, FEATURE_DIM) and features.dtype == np.float16
    assert boxes.shape == (count, NUM_REGIONS, 4) and boxes.dtype == np.float32
    lines = {
        name: (folder / f"{split}_{name}.txt").read_text().splitlines() for name in ("caps", "ids", "class")
    }
    assert [len(lines[name]) for name in ("caps", "ids", "class")] == [5 * count, count, count]
    assert all(len(set(lines["caps"][5 * row : 5 * row + 5])) == 5 for row in range(count))
    for image_id in lines["ids"]:
        with Image.open(folder / "images" / f"{image_id}.png") as picture:
            assert picture.size == (64, 64) and picture.mode == "RGB"
    for line in (folder / f"{split}_tags.txt").read_text().splitlines():
        tags = json.loads(line)
        assert len(tags["tags"]) == len(tags["confidences"]) == NUM_REGIONS
        assert sorted(tags["confidences"], reverse=True) == tags["confidences"]
        assert min(tags["confidences"]) > 0 and max(tags["confidences"]) < 1


def test_the_same_seed_gives_the_same_bytes_whatever_the_processes(folder: Path, tmp_path: Path) -> None:
    again, other = tmp_path / "again", tmp_path / "other"
    make_scenes(again, ScenesOptions(**COUNTS, image_size=64), processes=2)
    make_scenes(other, ScenesOptions(**COUNTS, image_size=64, seed=1))
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert all((folder / name).read_bytes() == (again / name).read_bytes() for name in files)
    assert (folder / "train_caps.txt").read_bytes() != (other / "train_caps.txt").read_bytes()


def test_a_larger_data_set_begins_with_the_smaller_one(folder: Path) -> None:
    for index, line in enumerate(read_scenes(folder, "test")):
        objects = sample_scene("test", index, seed=0).objects
        assert [(item.colour, item.shape) for item in objects] == [
            (item["colour"], item["shape"]) for item in line["objects"]
        ]


def test_no_set_of_objects_is_in_two_splits_even_with_colours_exchanged() -> None:
    sets = {split: set() for split in SPLITS}
    for split, count in (("train", 2000), ("dev", 200), ("test", 200)):
        for seed in (0, 1):  # another seed's test split is unseen too
            for index in range(count):
                objects = sample_scene(split, index, seed).objects
                colours, shapes = (
                    tuple(sorted(kind)) for kind in zip(*((o.colour, o.shape) for o in objects), strict=True)
                )
                sets[split].add((colours, shapes))
    assert (
        not sets["train"] & sets["dev"]
        and not sets["train"] & sets["test"]
        and not sets["dev"] & sets["test"]
    )


def test_every_attribute_occurs_in_training(folder: Path) -> None:
    scenes = read_scenes(folder, "train")
    assert {item["colour"] for scene in scenes for item in scene["objects"]} == set(COLOURS)
    assert {item["shape"] for scene in scenes for item in scene["objects"]} == set(SHAPES)
    assert {item["size"] for scene in scenes for item in scene["objects"]} == set(SIZES)
    assert {(scene["pattern"], scene["tint"]) for scene in scenes} == {
        (p, t) for p in PATTERNS for t in TINTS
    }
    assert {len(scene["objects"]) for scene in scenes} == {1, 2, 3}


def test_a_family_differs_only_in_binding_and_relation(folder: Path) -> None:
    scenes = read_scenes(folder, "test")
    for start in range(0, len(scenes), FAMILY):
        family = scenes[start : start + FAMILY]
        assert len({(scene["family"], scene["pattern"], scene["tint"]) for scene in family}) == 1
        for attribute in ("colour", "shape"):
            assert len({tuple(sorted(item[attribute] for item in scene["objects"])) for scene in family}) == 1
        if len(family[0]["objects"]) > 1:
            assert len({tuple(sorted(item["size"] for item in scene["objects"])) for scene in family}) == 1


def test_classes_name_the_largest_object_and_none_is_alone_in_its_split() -> None:
    for split, count in (("train", 2000), ("dev", 200), ("test", 200)):
        scenes = [sample_scene(split, index, 0) for index in range(count)]
        for scene in scenes:
            assert scene.objects[0].radius > 1.3 * max((item.radius for item in scene.objects[1:]), default=0)
            assert scene.label == f"{scene.objects[0].colour} {scene.objects[0].shape}"
        smallest = min(Counter(scene.label for scene in scenes).values())
        assert smallest >= (10 if split == "train" else 2)


@pytest.mark.parametrize("split", SPLITS)
def test_captions_are_true_of_the_picture(folder: Path, split: str) -> None:
    captions = (folder / f"{split}_caps.txt").read_text().splitlines()
    lengths = [len(caption.split()) for caption in captions]
    assert min(lengths) >= 4 and max(lengths) <= 20
    for row, scene in enumerate(read_scenes(folder, split)):
        for caption in captions[5 * row : 5 * row + 5]:
            assert is_true(caption, scene), (caption, scene)


def test_the_check_of_captions_finds_what_is_false() -> None:
    first = {"colour": "red", "shape": "ring", "size": "small", "box": [0, 0, 9, 9]}
    second = {"colour": "blue", "shape": "star", "size": "large", "box": [30, 0, 60, 30]}
    scene = {"pattern": "striped", "tint": "pink", "objects": [first, second]}
    assert is_true("a blue star with a tiny red hoop on its left", scene)
    assert is_true("the red ring sits left of the blue star on pink stripes", scene)
    for false in (
        "a blue star with a tiny red hoop on its right",
        "a red star and a blue ring",
        "a large red ring left of a blue star",
        "a red ring on dots",
        "three shapes, one of them a red ring",
        "a red ring that is bigger than a blue star",
        "something is right of a blue star",
        "two blue shapes, a ring and a heart",
    ):
        assert not is_true(false, scene), false


def test_of_two_swapped_captions_one_is_true_and_both_have_the_same_words(folder: Path) -> None:
    scenes = {scene["id"]: scene for scene in read_scenes(folder, "test")}
    pairs = load_swapped(folder)
    assert {pair.kind for pair in pairs} == {"colours", "sides"} and len(pairs) > COUNTS["test"]
    for pair in pairs:
        assert pair.caption != pair.swapped
        assert sorted(pair.caption.split()) == sorted(pair.swapped.split())
        assert len(mentions(pair.caption)) == 2
        assert is_true(pair.caption, scenes[pair.image_id]), pair
        assert not is_true(pair.swapped, scenes[pair.image_id]), pair


def test_tags_and_boxes_decide_swapped_captions(folder: Path) -> None:
    """A model that binds words to regions and compares boxes can pass the test that bags of words fail."""
    regions = {}
    tag_lines = (folder / "test_tags.txt").read_text().splitlines()
    image_ids = (folder / "test_ids.txt").read_text().splitlines()
    for name, line, boxes in zip(image_ids, tag_lines, np.load(folder / "test_boxes.npy"), strict=True):
        regions[name] = list(zip(json.loads(line)["tags"], boxes, strict=True))

    def read_off(caption: str, image_id: str) -> bool:
        first, second = (
            [box for tag, box in regions[image_id] if tag == f"{colour} {shape}"]
            for _, colour, shape in mentions(caption)
        )
        (stands,) = (RELATIONS[kind] for kind, phrase in PHRASES if re.search(phrase, caption))
        return any(stands(a, b) for a in first for b in second)

    pairs = load_swapped(folder)
    truths = [read_off(pair.caption, pair.image_id) - read_off(pair.swapped, pair.image_id) for pair in pairs]
    assert np.mean(np.array(truths) == 1) > 0.9


def test_a_caption_alone_does_not_betray_which_is_true(folder: Path) -> None:
    """Each relation is as often true as false, so that the sentence without the picture tells nothing."""
    scenes = [sample_scene("test", index, 0) for index in range(200)]
    relations = Counter()
    for scene in scenes:
        if len(scene.objects) == 2:
            dx, dy = (getattr(scene.objects[0], axis) - getattr(scene.objects[1], axis) for axis in "xy")
            relations[
                ("right" if dx > 0 else "left") if abs(dx) > abs(dy) else ("below" if dy > 0 else "above")
            ] += 1
    assert relations["left"] == relations["right"] and relations["above"] == relations["below"]


@pytest.mark.parametrize("split", SPLITS)
def test_boxes_lie_in_the_picture_and_contain_the_objects(folder: Path, split: str) -> None:
    boxes = np.load(folder / f"{split}_boxes.npy")
    assert boxes.min() >= 0 and boxes.max() <= 64
    assert (boxes[..., 2:] > boxes[..., :2] + 2).all()
    for scene, regions in zip(read_scenes(folder, split), boxes, strict=True):
        for item in scene["objects"]:
            x1, y1, x2, y2 = item["box"]
            inside = (regions[:, :2] <= (x1 + 0.01, y1 + 0.01)).all(1) & (
                regions[:, 2:] >= (x2 - 0.01, y2 - 0.01)
            ).all(1)
            close = area(item["box"]) > 0.6 * (regions[:, 2:] - regions[:, :2]).prod(1)
            assert (inside & close).any()


def test_tags_name_what_is_in_the_box_save_for_a_few(folder: Path) -> None:
    right = []
    boxes = np.load(folder / "train_boxes.npy")
    for scene, regions, line in zip(
        read_scenes(folder, "train"), boxes, (folder / "train_tags.txt").read_text().splitlines(), strict=True
    ):
        for box, tag in zip(regions, json.loads(line)["tags"], strict=True):
            if tag != "background":
                centre = (box[:2] + box[2:]) / 2
                nearest = min(
                    scene["objects"],
                    key=lambda item: np.hypot(*(np.add(item["box"][:2], item["box"][2:]) / 2 - centre)),
                )
                right.append(tag == f"{nearest['colour']} {nearest['shape']}")
    assert 0.9 < np.mean(right) < 1


def test_features_end_with_the_box_terms(folder: Path) -> None:
    features, boxes = np.load(folder / "dev_ims.npy"), np.load(folder / "dev_boxes.npy") / 64
    terms = np.concatenate([boxes, boxes[..., 2:] - boxes[..., :2]], axis=-1)
    np.testing.assert_allclose(features[..., APPEARANCE_DIM:], terms, atol=1e-3)


def test_stored_features_are_those_of_the_stored_pictures(folder: Path) -> None:
    ids = (folder / "dev_ids.txt").read_text().splitlines()
    pictures = np.stack([np.asarray(Image.open(folder / "images" / f"{name}.png")) for name in ids])
    features = region_features(pictures, np.load(folder / "dev_boxes.npy"))
    np.testing.assert_array_equal(features.astype(np.float16), np.load(folder / "dev_ims.npy"))


def picture_of(x: float, y: float, colour: str = "red", shape: str = "star") -> np.ndarray:
    """Draw one object on plain ground, without specks or shades."""
    item = SceneObject(colour, shape, "medium", x, y, 0.15, 5.0)
    ground = draw_scene(Scene((), "plain", "grey"), 96, Random(0))
    drawn = draw_scene(Scene((item,), "plain", "grey"), 96, Random(0))
    changed = (np.asarray(ground) != np.asarray(drawn)).any(-1)
    return np.where(changed[..., None], np.asarray(drawn), np.asarray(ground)[0, 0])


def test_appearance_does_not_tell_where_an_object_is() -> None:
    """Moved by 30 and 45 pixels with its box, an object looks the same; only the box terms change."""
    first = picture_of(0.25, 0.25)
    second = np.roll(first, (45, 30), axis=(0, 1))
    box = np.array([6.3, 7.1, 42.6, 43.9])
    boxes = np.stack([[box], [box + (30, 45, 30, 45)]])
    here, there = region_features(np.stack([first, second]), boxes)[:, 0]
    np.testing.assert_allclose(here[:APPEARANCE_DIM], there[:APPEARANCE_DIM], atol=1e-5)
    np.testing.assert_allclose(
        there[APPEARANCE_DIM:] - here[APPEARANCE_DIM:], np.divide((30, 45, 30, 45, 0, 0), 96), atol=1e-6
    )


def test_appearance_changes_with_the_pixels_and_only_with_those_in_the_box() -> None:
    plain = picture_of(0.25, 0.25)
    box = np.array([[[6.0, 6.0, 44.0, 44.0]]])
    reference = region_features(plain[None], box)[0, 0]
    for other in (picture_of(0.25, 0.25, colour="blue"), picture_of(0.25, 0.25, shape="ring")):
        assert np.abs(region_features(other[None], box)[0, 0] - reference)[:APPEARANCE_DIM].max() > 0.1
    outside = plain.copy()
    outside[46:, 46:] = 0
    np.testing.assert_allclose(region_features(outside[None], box)[0, 0], reference, atol=1e-6)


def test_the_first_features_are_the_mean_colour_of_the_box() -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (2, 20, 24, 3), dtype=np.uint8)
    boxes = np.array([[[2, 3, 18, 19], [4, 0, 20, 16]], [[0, 4, 16, 20], [8, 1, 24, 17]]])
    features = region_features(pictures, boxes)
    for image in range(2):
        for region in range(2):
            x1, y1, x2, y2 = boxes[image, region]
            crop = pictures[image, y1:y2, x1:x2] / 255
            np.testing.assert_allclose(features[image, region, :3], crop.mean((0, 1)), rtol=1e-5)


def test_a_linear_probe_reads_colour_and_shape_of_unseen_compositions_from_a_region() -> None:
    """What captions mention can be learnt from the features, so the stand-in detector does not guess."""
    found = {}
    for split, count in (("train", 240), ("test", 60)):
        rows, names = [], []
        for index in range(count):
            scene = sample_scene(split, index, 0)
            picture = np.asarray(draw_scene(scene, 96, Random(index)))
            regions = [r for r in detect_regions(scene, 96, Random(index)) if r.confidence > 0.61]
            rows.append(
                region_features(picture[None], np.array([[r.box for r in regions]]))[0, :, :APPEARANCE_DIM]
            )
            names += [r.tag.split() for r in regions]
        found[split] = np.concatenate(rows), np.array(names)
    (x, names), (x_test, names_test) = found["train"], found["test"]
    mean, scale = x.mean(0), x.std(0) + 1e-3
    x, x_test = ((np.c_[(rows - mean) / scale, np.ones(len(rows))]) for rows in (x, x_test))
    for column, choices in enumerate((COLOURS, SHAPES)):
        target = names[:, column][:, None] == np.array(choices)
        weights = np.linalg.solve(x.T @ x + 10 * np.eye(x.shape[1]), x.T @ target)
        read = np.array(choices)[(x_test @ weights).argmax(1)]
        assert (read == names_test[:, column]).mean() > 0.8


def test_an_existing_folder_is_left_alone_unless_forced(folder: Path, tmp_path: Path) -> None:
    path, small = tmp_path / "data", ScenesOptions(4, 4, 4, image_size=48)
    assert make_scenes(path, small)
    (path / "images" / "mine.txt").write_text("kept")
    assert not make_scenes(path, small)
    assert (path / "images" / "mine.txt").exists()
    with pytest.raises(UserError, match=r"seed=0 \(wanted 1\).*--force"):
        make_scenes(path, ScenesOptions(4, 4, 4, seed=1, image_size=48))
    assert make_scenes(path, ScenesOptions(4, 4, 4, seed=1, image_size=48), force=True)
    assert not (path / "images" / "mine.txt").exists()
    (path / "meta.json").write_text("{}")
    with pytest.raises(UserError, match="other files"):  # somebody's folder is not deleted, forced or not
        make_scenes(path, small, force=True)


def test_what_is_interrupted_leaves_nothing_and_keeps_the_old(tmp_path: Path) -> None:
    path, small = tmp_path / "data", ScenesOptions(4, 4, 4, image_size=48)
    make_scenes(path, small)
    before = (path / "train_caps.txt").read_bytes()

    def interrupt(stage: str, done: int, total: int) -> None:
        assert (stage, done, total) == ("making train", 4, 4)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_scenes(path, ScenesOptions(4, 4, 4, seed=1, image_size=48), force=True, progress=interrupt)
    assert [entry.name for entry in tmp_path.iterdir()] == ["data"]
    assert (path / "train_caps.txt").read_bytes() == before


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    def limit_file_size() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    command = [sys.executable, str(ROOT / "tools" / "make_scenes.py"), "--train", "64", "--image_size", "48"]
    result = subprocess.run(
        [*command, "--out", str(tmp_path / "data")],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit_file_size,
    )
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1 and "File too large" in result.stderr
    assert not list(tmp_path.iterdir())


def test_swapped_captions_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="make_scenes"):
        load_swapped(tmp_path)
    good = json.dumps(vars(SwappedPair("a", "sides", "x y", "y x")))
    (tmp_path / "test_swapped.jsonl").write_text(f'{good}\n{{"image_id": 1}}\n')
    with pytest.raises(UserError, match="line 2"):
        load_swapped(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--train", "0"], "train=0"),
        (["--image_size", "8"], "48 to 1024"),
        (["--seed", "-1"], "seed=-1"),
        (["--train", "many"], "many"),
        (["--sede", "1"], "--seed"),
        (["--out", "/dev/null/scenes"], "/dev/null/scenes"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_and_exit_2(
    arguments: list[str], words: str, tmp_path: Path
) -> None:
    command = [
        sys.executable,
        str(ROOT / "tools" / "make_scenes.py"),
        "--out",
        str(tmp_path / "data"),
        *arguments,
    ]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1 and words in result.stderr
    assert not list(tmp_path.iterdir())


def test_the_command_makes_a_folder_once(tmp_path: Path) -> None:
    sizes = ["--train", "8", "--dev", "4", "--test", "4", "--image_size", "48", "--out", "made/scenes"]
    command = [sys.executable, str(ROOT / "tools" / "make_scenes.py"), *sizes]
    first, second = (
        subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True).stdout
        for _ in range(2)
    )
    assert "8/4/4 images of 48 pixels, seed 0" in first and "already there" in second
    assert (tmp_path / "made" / "scenes" / "meta.json").is_file()
