"""The page of an image carries all drawings; a report shows what can be shown, and no text writes markup."""

import numpy as np
import pytest
from PIL import Image

from serving.reports.drawing import BoxedPicture
from serving.reports.explanation import explain
from serving.reports.explanation_page import attention_section, report_sections, write_attention
from serving.reports.pictures import PictureFolder
from serving.reports.region_view import region_view


def section_of(searcher, pictures, text=None, **options):
    regions = searcher.dataset.regions(0)
    view, notes = region_view("image_0", regions, pictures)
    return attention_section(explain(searcher, 0, regions, text), view, notes, top=2, **options)


def test_a_page_carries_the_drawings_and_says_what_they_rest_on(vsrn, pictures, tmp_path):
    section = section_of(vsrn, pictures)
    *drawings, page = write_attention(tmp_path / "seen", section, "By a <model>.")
    assert [path.name for path in drawings] == [f"{figure.name}.png" for figure in section.figures]
    for path, figure in zip(drawings, section.figures, strict=True):
        with Image.open(path) as picture:
            assert np.array_equal(np.asarray(picture.convert("RGB")), np.asarray(figure.picture))
    text = page.read_text()
    assert text.count("data:image/png;base64,") == len(drawings) == 5
    assert "drawn as a grid of 2 x 2" in text and "By a &lt;model&gt;." in text
    assert all(
        f"{caption.score:.3f}</td><td>{caption.rank}<" in text for caption in section.attention.captions
    )


def test_a_model_without_a_graph_has_no_drawing_of_one(vsepp, pictures):
    assert [figure.name for figure in section_of(vsepp, pictures).figures] == ["sentence", "words", "matrix"]


def test_what_a_region_takes_is_drawn_for_the_one_that_is_asked_for(vsrn, pictures):
    headings = {section_of(vsrn, pictures, taker=taker).figures[1].heading for taker in range(4)}
    assert headings == {f"What region {number} takes from others" for number in range(1, 5)}
    listening = section_of(vsrn, pictures).attention.listening
    most = int(listening.sum(axis=0).argmax())
    assert section_of(vsrn, pictures).figures[1].heading == f"What region {most + 1} takes from others"


def test_no_sentence_or_tag_writes_markup(vsepp, tmp_path):
    regions = vsepp.dataset.regions(0)
    view = BoxedPicture(Image.new("RGB", (40, 40)), np.tile([0.0, 0, 20, 20], (4, 1)), ["<b>"] * 4)
    seen = explain(vsepp, 0, regions, "<script>alert(1)</script> dog")
    text = write_attention(tmp_path, attention_section(seen, view, ["<i>"], 2), "")[-1].read_text()
    assert "<script>" not in text and "&lt;script&gt;" in text and "<i>" not in text


def test_a_report_looks_at_its_captions_with_their_images(vsrn, pictures):
    sections = report_sections(vsrn, [3, 0], pictures)
    assert [section.attention.image_id for section in sections] == ["image_1", "image_0"]
    assert [section.attention.sentence.text for section in sections] == ["a cat", "a red dog"]
    assert [figure.name for figure in sections[0].figures] == ["graph", "links", "sentence", "words"]


@pytest.mark.parametrize("lacking", ["picture", "boxes"])
def test_a_report_leaves_out_what_cannot_be_drawn(vsrn, pictures, monkeypatch, lacking):
    if lacking == "picture":
        pictures = PictureFolder(None)
    else:
        whole = vsrn.dataset.regions
        monkeypatch.setattr(vsrn.dataset, "regions", lambda row: _without_last(whole(row)))
    assert report_sections(vsrn, [0], pictures) == []


def _without_last(regions):
    """Return three regions, which are no grid."""
    return type(regions)(features=regions.features[:3])
