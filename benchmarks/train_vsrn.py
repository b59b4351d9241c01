"""Training VSRN against its PyTorch twin, at the original's sizes: 36 x 2048, embeddings of 2048, batch 128.

Both sides train retrieval and the caption decoder (hidden 512, words 300) with a vocabulary of 8,500 words.
The twin always decodes 59 steps, as the original does. It is one of float32, as the original is.
"""

from _race import BFLOAT16, FLOAT32, SETTINGS, can_race, corpora, race_on
from _report import report

IMAGES = 1024
VOCABULARY_CAPTIONS = 20_000  # so many captions of Flickr30k have some 8,500 distinct words

if __name__ == "__main__":
    corpus, captions = list(corpora("train", VOCABULARY_CAPTIONS).items())[-1]  # real captions if any
    for precision, goal in ((FLOAT32, 1.9), (BFLOAT16, 2.6)):
        claim = f"VSRN training in {precision}, embedding 2048, batch {SETTINGS['vsrn'].batch}, {corpus}"
        if can_race((precision,), claim):
            measured = race_on(captions, IMAGES, "train", "vsrn", (precision, FLOAT32))
            report(claim, *measured, goal=goal, unit="pairs/s", higher_is_better=True)
