"""What is said of an image is what the model computes: shares, scores, ranks, and the caption it writes."""

from functools import partial

import numpy as np
import paddle
import pytest

from config.errors import UserError
from datasets.words.vocabulary import Vocabulary
from serving.reports.explanation import Explanation, explain, graph_listening, listening_shares, read_sentence
from serving.splits.split_searcher import SplitSearcher


def features(searcher: SplitSearcher, row: int) -> np.ndarray:
    return searcher.dataset.regions(row).features


def look(searcher: SplitSearcher, row: int, text: str | None = None) -> Explanation:
    return explain(searcher, row, searcher.dataset.regions(row), text)


def score_of(searcher: SplitSearcher, image: np.ndarray, ids: list[int]) -> float:
    """Return the score of one image's regions [R,F] with one caption, each encoded by itself."""
    batch = {
        "regions": paddle.to_tensor(image[None]),
        "num_regions": paddle.to_tensor([len(image)]),
        "token_ids": paddle.to_tensor([ids]),
        "text_len": paddle.to_tensor([len(ids)]),
    }
    with paddle.no_grad():
        return searcher.model.similarity(
            searcher.model.encode_image(batch), searcher.model.encode_text(batch)
        ).item()


def test_shares_are_of_what_others_take_and_every_block_counts_alike():
    random = np.random.default_rng(1)
    affinities = [random.normal(size=(4, 4)) * scale for scale in (1.0, 1000.0)]
    shares = listening_shares(affinities)
    for i in range(4):
        for j in range(4):
            by_hand = 0.0
            for affinity in affinities:
                total = sum(abs(affinity[a, b]) for a in range(4) for b in range(4) if a != b)
                by_hand += (abs(affinity[i, j]) / total if i != j else 0.0) / 2
            assert shares[i, j] == pytest.approx(by_hand)
    assert shares.sum() == pytest.approx(1)
    assert not listening_shares([np.zeros((3, 3))]).any(), "who takes nothing takes no share"


def test_listening_is_theta_phi_of_the_graph(vsrn):
    """The first block by the paper's formula, from its weights."""
    encoder = vsrn.model.image_encoder
    with paddle.no_grad():
        mapped = encoder.fc(paddle.to_tensor(features(vsrn, 1))).numpy()
    mapped = mapped / np.linalg.norm(mapped, axis=0)
    theta, phi = (
        mapped @ layer.weight.numpy() + layer.bias.numpy()
        for layer in (encoder.blocks[0].theta, encoder.blocks[0].phi)
    )
    affinity = theta @ phi.T / 4
    encoder.blocks = paddle.nn.LayerList([encoder.blocks[0]])
    assert np.allclose(
        graph_listening(vsrn.model, features(vsrn, 1)), listening_shares([affinity]), atol=1e-6
    )


@pytest.mark.parametrize("name", ["vsepp", "vsrn"])
def test_relevance_is_of_this_image_and_this_sentence(name, request):
    searcher = request.getfixturevalue(name)
    seen = look(searcher, 1, "the red cat")
    ids = searcher.dataset.vocabulary.encode("the red cat")
    whole = score_of(searcher, features(searcher, 1), ids)
    assert seen.relevance.score == pytest.approx(whole, abs=1e-5)
    for region in range(4):
        rest = np.delete(features(searcher, 1), region, axis=0)
        lost = whole - score_of(searcher, rest, ids)
        assert seen.relevance.region[region] == pytest.approx(lost, abs=1e-5)
        for word in range(3):
            fewer = [token for place, token in enumerate(ids) if place != word + 1]
            needs_both = (
                lost - score_of(searcher, features(searcher, 1), fewer) + score_of(searcher, rest, fewer)
            )
            assert seen.relevance.pair[region, word] == pytest.approx(needs_both, abs=1e-5)


@pytest.mark.parametrize("name", ["vsepp", "vsrn"])
def test_captions_stand_with_their_scores_and_the_rank_of_the_picture(name, request):
    searcher = request.getfixturevalue(name)
    seen = look(searcher, 2, "a sun")
    expected = [("asked", "a sun"), ("true", "the red sun")]  # which is there twice
    assert [(caption.origin, caption.text) for caption in seen.captions][:2] == expected
    assert len(seen.captions) == (3 if name == "vsrn" else 2)
    for caption in seen.captions[:2]:
        ids = searcher.dataset.vocabulary.encode(caption.text)
        scores = [score_of(searcher, image, ids) for image in map(partial(features, searcher), range(3))]
        assert caption.score == pytest.approx(scores[2], abs=1e-5)
        assert caption.rank == 1 + sum(score >= scores[2] for score in scores[:2])


def test_a_caption_of_the_image_is_judged_once(vsepp):
    assert [caption.text for caption in look(vsepp, 0, "a dog").captions] == ["a red dog", "a dog"]


def test_ties_count_against_the_picture(vsepp):
    vsepp.images[:] = vsepp.images[0]
    vsepp.image_index.embeddings[:] = vsepp.images[0]
    assert {caption.rank for caption in look(vsepp, 0).captions} == {3}


def test_the_written_caption_is_the_models_own(vsrn):
    seen = look(vsrn, 0)
    (generated,) = [caption for caption in seen.captions if caption.origin == "generated"]
    batch = {"regions": paddle.to_tensor(features(vsrn, 0)[None]), "num_regions": paddle.to_tensor([4])}
    with paddle.no_grad():
        written = vsrn.model.write_captions(batch, 7).numpy()[0].tolist()
    end = vsrn.dataset.vocabulary.end_id
    ids = written[: written.index(end)] if end in written else written
    assert generated.text == " ".join(vsrn.dataset.vocabulary.words[index] for index in ids)
    framed = [vsrn.dataset.vocabulary.start_id, *ids, end]
    assert generated.score == pytest.approx(score_of(vsrn, features(vsrn, 0), framed), abs=1e-5)


def test_without_a_sentence_it_is_the_images_first(vsepp):
    seen = look(vsepp, 1)
    assert seen.sentence.text == "the blue cat" and seen.sentence.words == ["the", "blue", "cat"]
    assert [caption.origin for caption in seen.captions] == ["true", "true"]
    assert seen.listening is None


def test_unknown_words_are_marked_and_shown(vsepp):
    seen = look(vsepp, 0, "A purple dog!")
    assert seen.sentence.words == ["a", "purple (unknown)", "dog", "! (unknown)"]
    assert seen.relevance.pair.shape == (4, 4)


def test_the_places_of_words_are_past_the_markers():
    """VSE's captions have no start."""
    for layout, places in (("vsepp", range(1, 3)), ("vse", range(2))):
        vocabulary = Vocabulary.build(["a dog"], "simple", 1, layout)
        sentence = read_sentence("a dog", vocabulary)
        assert sentence.places == places
        assert [vocabulary.words[sentence.token_ids[place]] for place in places] == ["a", "dog"]


def test_a_sentence_has_words(vsepp):
    with pytest.raises(UserError, match="--text: expected a sentence"):
        look(vsepp, 0, "  ")
