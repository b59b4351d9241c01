"""One picture in two files: its names are matched where that is unambiguous, and refused where it is not."""

import unicodedata

import pytest

from datasets.names import AmbiguousNameError, UnknownNamesError, composed, match_names, same_name


def decomposed(name: str) -> str:
    return unicodedata.normalize("NFD", name)


SPELLINGS = {
    "as they are": lambda i: f"COCO_val2014_{i:012d}.jpg",
    "without ending": lambda i: f"COCO_val2014_{i:012d}",
    "another ending": lambda i: f"COCO_val2014_{i:012d}.png",
    "with a folder": lambda i: f"val2014/COCO_val2014_{i:012d}.jpg",
    "with a folder of Windows": lambda i: f"D:\\val2014\\COCO_val2014_{i:012d}.jpg",
    "of 2017": lambda i: f"{i:012d}.jpg",
    "zeros": lambda i: f"{i:012d}",
    "another case": lambda i: f"coco_VAL2014_{i:012d}.JPG",
    "features": lambda i: f"features/COCO_val2014_{i:012d}.npy",
    "id": str,
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings_of_a_name_of_coco(spelling: str) -> None:
    rows = {SPELLINGS[spelling](number): row for row, number in enumerate(range(109, 99, -1))}
    kinds = [[f"COCO_val2014_{number:012d}.jpg" for number in range(100, 110)]]
    kinds += [list(map(str, range(100, 110))), [str(number) for number in range(500, 510)]]
    assert match_names(kinds, rows) == list(range(9, -1, -1))


@pytest.mark.parametrize("name", ["café.jpg", "한강/강.jpg", "người.png", "がぎ.jpg"])
def test_both_forms_of_a_name_are_the_same(name: str) -> None:
    other = decomposed(name)
    assert other != name
    assert match_names([[name]], {other: 3, "plain.jpg": 4}) == match_names([[other]], {name: 3}) == [3]
    assert same_name(name, {other, "x"}) == [other]
    assert composed(other) == name


def test_a_name_in_its_own_form_comes_before_the_other_form() -> None:
    rows = {"é": 0, decomposed("é"): 1}
    assert match_names([[decomposed("é"), "é"]], rows) == [1, 0]
    assert same_name("é", rows) == ["é"]


def test_what_fits_twice_is_refused() -> None:
    angstrom = "\u212b", "A\u030a"  # both become one letter
    with pytest.raises(AmbiguousNameError, match="several fit"):
        match_names([["\u00c5"]], dict(zip(angstrom, range(2), strict=True)))
    assert len(same_name("\u00c5", set(angstrom))) == 2
    with pytest.raises(AmbiguousNameError, match="several fit '1.jpg'"):
        match_names([["1.jpg"]], {"a/1.jpg": 0, "b/1.jpg": 1})
    with pytest.raises(AmbiguousNameError, match="two kinds of names"):
        match_names([["a", "b"], ["c", "d"]], {"a": 0, "b": 1, "c": 2, "d": 3})


def test_the_names_that_are_missing_in_the_best_form_are_told() -> None:
    with pytest.raises(UnknownNamesError) as error:
        match_names([["a/1.jpg", "a/2.jpg", "a/3.jpg"]], {"1": 0, "3": 1})
    assert (error.value.missing, error.value.place) == (["a/2.jpg"], 1)


def test_names_that_only_look_like_numbers_of_coco_are_not() -> None:
    with pytest.raises(UnknownNamesError):
        match_names([["img 7.jpg"]], {"7": 0})
