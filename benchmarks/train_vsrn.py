"""Training VSRN at the original's sizes against its PyTorch twin: 36 x 2048, embedding 2048, batch 128.

Both train retrieval and the caption decoder (hidden 512, words 300) on 8,500 words; the twin always decodes
59 steps, as the original does.
"""

from _race import SETTINGS, corpora, race_on
from _report import report

IMAGES = 1024
VOCABULARY_CAPTIONS = 20_000  # in which some 8,500 words of Flickr30k occur

if __name__ == "__main__":
    corpus, captions = list(corpora("train", VOCABULARY_CAPTIONS).items())[-1]  # real ones where they are
    report(
        f"VSRN training, embedding 2048, batch {SETTINGS['vsrn'].batch}, {corpus}",
        *race_on(captions, IMAGES, "train", "vsrn"),
        goal=1.3,
        unit="pairs/s",
        higher_is_better=True,
    )
