"""Pictures of folders and zip files are found, named as other files call them, and read."""

import unicodedata

import numpy as np
import pytest

from config.errors import UserError
from datasets.pictures.files import PictureFiles
from datasets.pictures.loader import PictureLoader
from datasets.pictures.picture import UnreadableError, Unreadables
from datasets.pictures.transforms import Normalization, RandomResizedCrop, ResizeCentreCrop, TenCrop
from tests.picture_files import encoded, noisy, quarters, write_folder, write_zip

PICTURE = encoded(quarters())
TREE = {
    "b.JPG": PICTURE,
    "a dir/c d.png": PICTURE,
    "a dir/.hidden.png": b"",
    "notes.txt": b"",
    "Ä.png": PICTURE,
}
NAMES = ["a dir/c d.png", "b.JPG", "Ä.png"]


@pytest.fixture(params=["folder", "zip"])
def tree(request, tmp_path):
    """Return the same pictures as a folder, or as a zip file."""
    hidden = {**TREE, ".git/x.png": PICTURE, "__MACOSX/._b.JPG": b"junk"}
    if request.param == "zip":
        return write_zip(tmp_path / "photos.zip", hidden)
    return write_folder(tmp_path / "photos", hidden)


def test_pictures_are_listed_in_order_and_read(tree):
    files = PictureFiles(tree)
    assert files.names == NAMES and len(files) == 3
    assert all(files.read(name) == PICTURE for name in NAMES)


def test_names_are_found_as_other_files_write_them(tree):
    files = PictureFiles(tree)
    wanted = [
        "b.JPG",
        "a dir/c d.png",
        "c d.png",
        "a dir\\c d.png",
        "photos/a dir/c d.png",
        "b",
        "c d",
        "./Ä.png",
    ]
    found = files.find(wanted, ["here"] * len(wanted))
    assert found == ["b.JPG", *[NAMES[0]] * 4, "b.JPG", NAMES[0], "Ä.png"]


def test_a_name_in_another_folder_is_not_taken_for_the_one(tmp_path):
    files = PictureFiles(write_folder(tmp_path / "p", {"cat/1.png": PICTURE, "dog/2.png": PICTURE}))
    with pytest.raises(UserError, match=r"list.txt line 7: no picture for 'dog/1.png' in .*p: add it"):
        files.find(["dog/1.png"], ["list.txt line 7"])


def test_a_name_of_several_pictures_is_refused(tmp_path):
    files = PictureFiles(write_folder(tmp_path / "p", {"cat/1.png": PICTURE, "dog/1.png": PICTURE}))
    assert files.find(["dog/1.png"], ["x"]) == ["dog/1.png"]
    with pytest.raises(UserError, match="x: 2 pictures, such as cat/1.png and dog/1.png for '1.png'"):
        files.find(["1.png"], ["x"])


@pytest.mark.parametrize("packed", [False, True])
def test_names_of_a_mac_are_found(tmp_path, packed):
    forms = [unicodedata.normalize(form, "café/한강.jpg") for form in ("NFD", "NFC")]
    pictures = {forms[0]: PICTURE}
    files = PictureFiles(
        write_zip(tmp_path / "p.zip", pictures) if packed else write_folder(tmp_path, pictures)
    )
    for name in (forms[1], forms[1][:-4], "photos/" + forms[1], "한강.jpg"):
        assert files.find([name], ["c.csv line 2"]) == [forms[0]]


def test_two_pictures_that_fit_in_the_other_form_are_refused(tmp_path):
    files = PictureFiles(write_folder(tmp_path, {"\u212b.jpg": PICTURE, "A\u030a.jpg": PICTURE}))
    with pytest.raises(UserError, match="c.csv line 2: 2 pictures, such as .* and .* for"):
        files.find(["\u00c5.jpg"], ["c.csv line 2"])


def test_absent_pictures_are_counted_and_five_are_named(tmp_path):
    files = PictureFiles(write_folder(tmp_path, {f"{number}.jpg": PICTURE for number in range(3)}))
    names = [f"{number}.jpg" for number in range(100)]
    with pytest.raises(UserError) as error:
        files.find(names, [f"c.csv line {number + 2}" for number in range(100)])
    message = str(error.value).replace(str(tmp_path), "photos")
    assert message == (
        "c.csv line 5: no picture for '3.jpg' in photos, nor for '4.jpg', '5.jpg', '6.jpg', '7.jpg' "
        "(97 of 100 are missing): add it, or remove the line"
    )


def test_an_absent_picture_of_several_captions_is_named_once(tmp_path):
    files = PictureFiles(write_folder(tmp_path, {"a.jpg": PICTURE}))
    with pytest.raises(UserError, match=r"no picture for 'b.jpg' in [^,]* \(5 of 6 are missing\): add it"):
        files.find(["a.jpg", *["b.jpg"] * 5], [f"c.csv line {number}" for number in range(2, 8)])


def test_no_folder_and_no_pictures_are_one_line(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match="none: no such folder"):
        PictureFiles(tmp_path / "none")
    with pytest.raises(UserError, match="no pictures among its 1 files"):
        PictureFiles(tmp_path)
    with pytest.raises(UserError, match=r"notes.txt: expected a folder of pictures, or a zip file"):
        PictureFiles(tmp_path / "notes.txt")


def test_damage_in_a_zip_file_is_that_of_its_picture(tmp_path):
    path = write_zip(tmp_path / "p.zip", {"a.png": PICTURE, "b.png": PICTURE})
    data = bytearray(path.read_bytes())
    data[60:70] = b"x" * 10  # in the first picture
    path.write_bytes(data)
    files = PictureFiles(path)
    assert files.read("b.png") == PICTURE
    with pytest.raises(UnreadableError, match="damaged in the zip file"):
        files.read("a.png")


def test_a_zip_file_without_a_name_for_one_of_its_pictures_lists_the_others(tmp_path):
    path = write_zip(tmp_path / "p.zip", {"a.png": PICTURE, "b.png": PICTURE})
    path.write_bytes(path.read_bytes().replace(b"a.png", b"\0.png"))  # a name ends where a null byte is
    assert PictureFiles(path).names == ["b.png"]


def loader(files: PictureFiles, transform=None, refuse: bool = False, seed: int = 0) -> PictureLoader:
    return PictureLoader(
        files, files.names, transform or ResizeCentreCrop(40, 32), Normalization(), Unreadables(refuse), seed
    )


@pytest.fixture
def blobs(tmp_path):
    """Return a folder of four different pictures, the third of them cut short."""
    pictures = {f"{n}.jpg": encoded(noisy(80, 60, seed=n), "JPEG") for n in range(4)}
    pictures["2.jpg"] = pictures["2.jpg"][:500]
    return PictureFiles(write_folder(tmp_path / "blobs", pictures))


def test_unreadable_pictures_leave_the_batch(blobs):
    reader = loader(blobs)
    batch = reader.read([3, 2, 0])
    assert batch.images.shape == (2, 1, 3, 32, 32) and batch.images.dtype == np.float32
    assert batch.kept.tolist() == [0, 2]
    np.testing.assert_array_equal(batch.images[1], reader.read([0]).images[0])
    assert list(reader.unreadables.problems) == ["2.jpg"]
    batch = reader.read([2])
    assert len(batch.images) == len(batch.kept) == len(batch.sizes) == len(batch.boxes) == 0
    with pytest.raises(UserError, match="2.jpg: unreadable picture"):
        loader(blobs, refuse=True).read([0, 2])


def test_a_batch_tells_sizes_and_what_the_views_show(blobs):
    batch = loader(blobs, ResizeCentreCrop(30, 15)).read([0, 1])
    assert batch.sizes.tolist() == [[80, 60], [80, 60]]
    np.testing.assert_array_equal(batch.boxes, [[[24, 16, 54, 46]]] * 2)  # half of the size, to whole pixels


def test_a_picture_is_cut_alike_for_the_same_seed_epoch_and_index_alone(blobs):
    reader = loader(blobs, RandomResizedCrop(32), seed=5)
    images = reader.read([0, 1, 3], epoch=2).images
    again = loader(blobs, RandomResizedCrop(32), seed=5).read([3, 0], epoch=2).images
    np.testing.assert_array_equal(images[[2, 0]], again)
    for other, epoch in ((reader, 3), (loader(blobs, RandomResizedCrop(32), seed=6), 2)):
        assert np.abs(other.read([0], epoch).images[0] - images[0]).max() > 0.1


def test_ten_crops_are_ten_views(blobs):
    images = loader(blobs, TenCrop(40, 32)).read([0, 1]).images
    assert images.shape == (2, 10, 3, 32, 32)
    np.testing.assert_array_equal(images[:, :5, :, :, ::-1], images[:, 5:])
