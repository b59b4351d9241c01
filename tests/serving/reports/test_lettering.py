"""Text keeps to its room."""

from serving.reports.lettering import fitted, font


def test_long_words_are_cut_to_their_room():
    assert fitted("dog", 100, 14) == "dog"
    cut = fitted("w" * 50, 100, 14)
    assert cut.endswith("...") and font(14).getlength(cut) <= 100
