"""Image encoders are measured on readable pictures, by the names of their classes."""

from pathlib import Path

import numpy as np
import paddle
import pytest

from config.errors import UserError
from datasets.image_dataset import ImageDataset
from datasets.pictures.files import PictureFiles
from datasets.pictures.lists import class_folders
from datasets.pictures.loader import PictureLoader
from datasets.pictures.picture import Unreadables
from datasets.pictures.transforms import Normalization, Stretch
from engine.certificates.sides import certify
from engine.evaluation.image import ImageResult, evaluate_images, format_images, nearest_pictures
from models.encoders import l2norm
from tests.picture_files import encoded, noisy, write_folder, write_zip
from tests.thread_job import ThreadJob


class Pooled(paddle.nn.Layer):
    """Coarse pixels for an embedding: pictures of one seed are alike."""

    measure = "cosine"

    def encode_image(self, batch: dict[str, paddle.Tensor]) -> paddle.Tensor:
        return l2norm(paddle.nn.functional.adaptive_avg_pool2d(batch["pixels"], 4).flatten(1))


def write(folder: Path, classes: dict[str, int], seed_of: dict[str, int], height: int = 32) -> Path:
    pictures = {
        f"{name}/{number}.png": encoded(noisy(32 + number, height, seed_of[name]))
        for name, count in classes.items()
        for number in range(count)
    }
    return write_folder(folder, pictures)


def dataset_of(folder: Path, name: str = "test") -> ImageDataset:
    files = PictureFiles(folder)
    pictures = class_folders(files)
    loader = PictureLoader(files, pictures.names, Stretch(16), Normalization(), Unreadables(refuse=False))
    return ImageDataset(name, loader, pictures)


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    return write(tmp_path / "a", {"cat": 3, "dog": 2, "lone": 1}, {"cat": 1, "dog": 2, "lone": 3})


@pytest.mark.parametrize("batch_size", [2, 100])
def test_pictures_find_their_class(animals: Path, batch_size: int) -> None:
    (animals / "cat/broken.png").write_bytes(b"")
    done = []
    result = evaluate_images(
        Pooled(),
        dataset_of(animals),
        batch_size=batch_size,
        num_workers=2,
        progress=lambda *numbers: done.append(numbers),
    )
    assert result.metrics == {
        "r1": 100,
        "r10": 100,
        "r100": 100,
        "r1000": 100,
        "map_at_r": 100,
        "r_precision": 100,
    }
    protocol = result.protocol
    assert (protocol["images"], protocol["classes"], protocol["queries"]) == (6, 3, 5)
    assert (protocol["unreadable"], protocol["gallery"], protocol["gallery_images"]) == (1, "", 6)
    assert ("encode pictures", 7, 7) in done
    assert done[-1] == ("rank", 5, 5)
    lines = format_images(result).splitlines()
    assert lines[0] == (
        "test: 6 pictures of 3 classes, searched in each other; 1 without another of their class do not "
        "count; 1 unreadable"
    )
    assert lines[2].split() == ["R@1", "R@10", "R@100", "R@1000", "MAP@R", "R-precision"]
    assert lines[3].split() == ["100.00"] * 6


@pytest.mark.parametrize("processes", [2, 4, 9])
def test_processes_have_the_result_of_one_to_the_last_digit(
    animals: Path, processes: int, monkeypatch, tmp_path: Path
) -> None:
    (animals / "cat/1.png").write_bytes(b"")
    expected = evaluate_images(Pooled(), dataset_of(animals), batch_size=2, block_size=2)
    data = [dataset_of(animals) for _ in range(processes)]
    folder = tmp_path / "run"

    def work(number: int) -> ImageResult:
        return evaluate_images(Pooled(), data[number], batch_size=2, block_size=2, shared=folder)

    for number, result in enumerate(ThreadJob(processes, monkeypatch).run(work)):
        assert (result.metrics, result.protocol) == (expected.metrics, expected.protocol)
        np.testing.assert_array_equal(result.queries.embeddings, expected.queries.embeddings)
        np.testing.assert_array_equal(result.queries.places, expected.queries.places)
        for name in ("queries", "ranks", "average_precision", "r_precision"):
            np.testing.assert_array_equal(getattr(result.ranks, name), getattr(expected.ranks, name))
        assert len(data[number].loader.unreadables.problems) == 1, "all know what one could not read"
    assert not list(folder.iterdir())


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batches_of_which_nothing_can_be_read_are_left_out(animals: Path, batch_size: int) -> None:
    for name in ("cat/0.png", "cat/1.png", "lone/0.png"):
        (animals / name).write_bytes(b"")
    result = evaluate_images(Pooled(), dataset_of(animals), batch_size=batch_size)
    assert (result.protocol["images"], result.protocol["unreadable"]) == (3, 3)
    assert result.metrics["r1"] == 100


def test_a_split_of_which_nothing_can_be_read_is_one_line(animals: Path) -> None:
    for path in animals.glob("*/*.png"):
        path.write_bytes(b"")
    with pytest.raises(
        UserError, match="a, test: none of the 6 pictures can be read, such as cat/0.png: mend"
    ):
        evaluate_images(Pooled(), dataset_of(animals), batch_size=4)


def test_a_gallery_has_classes_of_the_same_names(animals: Path, tmp_path: Path) -> None:
    # its eels look like cats
    other = write(tmp_path / "b", {"dog": 2, "eel": 4}, {"dog": 2, "eel": 1}, height=36)
    result = evaluate_images(Pooled(), dataset_of(animals), dataset_of(other, "shop"))
    assert result.protocol["gallery"] == "shop"
    assert result.protocol["queries"] == 2
    assert result.metrics["r1"] == 100
    assert "searched in 6 of shop" in format_images(result)
    cat = [place for place, _ in nearest_pictures(result, 0, 4)]
    assert {dataset_of(other).image_ids[place].split("/")[0] for place in cat} == {"eel"}


def test_queries_that_are_in_the_gallery_do_not_find_themselves(animals: Path, tmp_path: Path) -> None:
    """The same file under its own name or a link's, and a copy, are the query itself."""
    alone = evaluate_images(Pooled(), dataset_of(animals))
    again = evaluate_images(Pooled(), dataset_of(animals), dataset_of(animals, "all"))
    assert again.metrics == alone.metrics
    assert (alone.protocol["not_searched"], again.protocol["not_searched"]) == (0, 6)
    assert "6 are in that gallery too, and do not find themselves" in format_images(again)

    mixed = write(tmp_path / "mixed", {"cat": 1, "eel": 2}, {"cat": 1, "eel": 7})
    (mixed / "cat/link.png").symlink_to(animals / "cat/1.png")
    (mixed / "eel/copy.png").write_bytes((animals / "cat/2.png").read_bytes())  # even in another class
    result = evaluate_images(Pooled(), dataset_of(animals), dataset_of(mixed, "mixed"))
    assert result.protocol["not_searched"] == 3  # cat/0.png was drawn twice, with the same bytes
    names = dataset_of(mixed).image_ids
    found = [[names[place] for place, _ in nearest_pictures(result, row, 9)] for row in range(3)]
    assert [sorted(set(names) - set(hits)) for hits in found] == [
        ["cat/0.png"],
        ["cat/link.png"],
        ["eel/copy.png"],
    ]


def test_metrics_and_what_stands_behind_them_where_the_gallery_holds_the_queries(tmp_path: Path) -> None:
    """A plain sort, in which neither a query nor its copy is an item, has the same numbers.

    Each eel is a copy of a cat.
    """
    sizes = {"cat": 5, "dog": 4, "eel": 3, "fox": 2}
    shown = dict(zip(sizes, (1, 2, 1, 3), strict=True))
    queries = dataset_of(write(tmp_path / "q", {"cat": 2, "dog": 2, "eel": 1}, shown))
    gallery = dataset_of(write(tmp_path / "g", sizes, shown), "all")
    result = evaluate_images(Pooled(), queries, gallery)
    # Each score is the float32 nearest to the exact sum, so that copies tie; a product in float32 may round
    # the scores of two copies apart.
    wide = (each.embeddings.astype(np.float64) for each in (result.queries, result.gallery))
    scores = np.inner(*wide).astype(np.float32)
    numbers: dict[str, list[float]] = {name: [] for name in result.metrics}
    relevant, rivals = [], []
    for row, query in enumerate(queries.image_ids):
        own = (tmp_path / "q" / query).read_bytes()
        items = [(tmp_path / "g" / name).read_bytes() for name in gallery.image_ids]
        others = [place for place, data in enumerate(items) if data != own]
        hits = [gallery.image_ids[place].split("/")[0] == query.split("/")[0] for place in others]
        order = sorted(range(len(others)), key=lambda place: (-scores[row, others[place]], hits[place]))
        ordered, count = [hits[place] for place in order], sum(hits)
        for k in (1, 10, 100, 1000):
            numbers[f"r{k}"].append(100.0 * any(ordered[:k]))
        shares = [sum(ordered[:r]) / r for r in range(1, count + 1) if ordered[r - 1]]
        numbers["map_at_r"].append(100 * sum(shares) / count)
        numbers["r_precision"].append(100 * sum(ordered[:count]) / count)
        relevant.append(count)
        rivals.append(len(others))
    assert result.protocol["not_searched"] == len(queries.image_ids) == 5
    for name, each in numbers.items():
        assert result.metrics[name] == pytest.approx(np.mean(each))
    side = result.sides[""]
    assert side.relevant.tolist() == relevant and side.gallery.tolist() == rivals
    found = certify(result.sides, "against", 500)
    assert set(found) == set(numbers)
    for name, one in found.items():
        assert one.value == pytest.approx(result.metrics[name])
        assert one.interval.low <= one.value <= one.interval.high
    assert found["map_at_r"].chance < found["r10"].chance and 0 < found["r_precision"].chance < 100


def test_a_zip_file_and_a_folder_hold_the_same_pictures(animals: Path, tmp_path: Path) -> None:
    pictures = {path.relative_to(animals).as_posix(): path.read_bytes() for path in animals.glob("*/*")}
    packed = write_zip(tmp_path / "a.zip", pictures)
    result = evaluate_images(Pooled(), dataset_of(animals), dataset_of(packed, "zip"))
    assert result.protocol["not_searched"] == 6
    assert result.metrics == evaluate_images(Pooled(), dataset_of(animals)).metrics


def test_copies_in_a_split_do_not_find_each_other(animals: Path) -> None:
    (animals / "lone/copy.png").write_bytes((animals / "lone/0.png").read_bytes())
    result = evaluate_images(Pooled(), dataset_of(animals))
    assert (result.protocol["queries"], result.protocol["not_searched"]) == (5, 2)
    assert "2 have copies there, which they do not find" in format_images(result)


def test_a_gallery_of_the_queries_alone_is_one_line(tmp_path: Path) -> None:
    lone = write(tmp_path / "c", {"x": 1, "y": 1}, {"x": 1, "y": 2})
    with pytest.raises(UserError, match="test: no picture has another of its class to find in .*c, all"):
        evaluate_images(Pooled(), dataset_of(lone), dataset_of(lone, "all"))


def test_the_nearest_pictures_leave_out_the_query(animals: Path) -> None:
    dataset = dataset_of(animals)
    result = evaluate_images(Pooled(), dataset)
    hits = nearest_pictures(result, 3, 10)
    assert len(hits) == 5
    assert dataset.image_ids[hits[0][0]] == "dog/1.png"
    assert [score for _, score in hits] == sorted((score for _, score in hits), reverse=True)


def test_nothing_to_find_is_one_line(tmp_path: Path) -> None:
    lone = write(tmp_path / "c", {"x": 1, "y": 1}, {"x": 1, "y": 2})
    with pytest.raises(
        UserError, match="test: no picture has another of its class to find, such as one of x"
    ):
        evaluate_images(Pooled(), dataset_of(lone))


def test_an_embedding_that_is_not_a_number_names_its_picture(animals: Path) -> None:
    class Broken(Pooled):
        def encode_image(self, batch: dict[str, paddle.Tensor]) -> paddle.Tensor:
            found = super().encode_image(batch).numpy()
            found[-1] = np.nan
            return paddle.to_tensor(found)

    with pytest.raises(UserError, match=r"NaN or infinity for picture cat/1.png: the weights are broken"):
        evaluate_images(Broken(), dataset_of(animals), batch_size=2)
