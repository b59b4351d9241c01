"""Pictures that cannot be decoded are known before anything is made of the others."""

from datasets.pictures.files import PictureFiles
from datasets.pictures.readable import find_unreadable
from tests.picture_files import encoded, noisy, write_folder


def test_what_cannot_be_decoded_is_named_with_its_reason(tmp_path):
    whole = encoded(noisy(60, 40, seed=0), "JPEG")
    pictures = {"a.jpg": whole, "b.jpg": whole[:400], "in/c.jpg": b"", "d.png": b"<html>"}
    write_folder(tmp_path / "photos", pictures)
    seen = []
    found = find_unreadable(PictureFiles(tmp_path / "photos"), lambda *shown: seen.append(shown))
    assert list(found) == ["b.jpg", "d.png", "in/c.jpg"]
    assert found["in/c.jpg"] == "zero bytes" and "truncated" in found["b.jpg"].lower()
    assert seen[-1] == ("looking at pictures", 4, 4)
