"""What breaks first at 10 and 100 times the size: arithmetic from the measured points, for 1, 8 and 64 cards.

Nothing here was run on cards. The assumptions are constants, and the page prints them.
"""

from dataclasses import dataclass

import measure
from laws import stored_sizes

IMAGES, CAPTIONS, VECTORS = 113_287, 5, 1_000_000  # COCO, and the largest index that was measured
TIMES, CARDS = (1, 10, 100), (1, 8, 64)
EMBEDDING, WORD, WEIGHTS, FEATURES = 1024, 300, 11_000_000, 4096  # of VSE++
REGIONS, REGION_WIDTH = 36, 2048  # of VSRN
BATCH = 128  # pairs a card
CARD_SPEED, CORES_A_CARD, CARDS_A_MACHINE = 50, 16, 8  # a card is so many times as fast as the cores measured
CARD_GB, MACHINE_GB, DISK_GB = 24, 512, 4000
DISK_RATE, NETWORK_RATE = 3.0, 12.5  # GB/s of a machine
PATIENCE = 3600.0  # seconds that a ranking may take
SCORE_COPIES = 4  # scores, their gradient, and two masks
CORES = 2  # of the machine that was measured

ASSUMPTIONS = f"""\
- The data is COCO: {IMAGES:,} images with {CAPTIONS} captions each.
- The model is VSE++ with {WEIGHTS // 10**6} million weights, embeddings of {EMBEDDING} numbers, words of
  {WORD} and image features of {FEATURES}. Its step takes as many times the measured one as its recurrent
  products are larger. A card takes {BATCH} pairs a step.
- The regions of VSRN are {REGIONS} x {REGION_WIDTH} numbers in float16.
- A card has {CARD_GB} GB, and computes {CARD_SPEED} times as fast as the two cores that were measured.
- A machine has {CARDS_A_MACHINE} cards, {CORES_A_CARD} cores a card, {MACHINE_GB} GB of memory,
  {DISK_GB // 1000} TB on a disk of {DISK_RATE:g} GB/s, and {8 * NETWORK_RATE:g} Gbit/s to the others. One
  card stands in a machine of its own.
- Ranking runs on the cores, and may take an hour."""


@dataclass(frozen=True)
class Need:
    """What something needs, and how much of it there is, in `unit`."""

    need: float
    limit: float
    unit: str

    @property
    def share(self) -> float:
        """Return the need as a share of the limit."""
        return self.need / self.limit


def training_needs(stored: dict, times: int, cards: int) -> dict[str, Need]:
    """Return what training and evaluation need at so many times COCO on so many cards, for each resource."""
    images = IMAGES * times
    of_machine = min(cards, CARDS_A_MACHINE)
    machines = cards // of_machine
    image_gb = FEATURES * 4 / 1e9
    step = step_seconds(stored) / CARD_SPEED
    global_batch = BATCH * cards
    gradients_gb = 2 * 4 * WEIGHTS / 1e9 * (machines - 1) / machines
    largest = stored_sizes(stored, "encode", "read_memory")[-1]
    caption_gb = stored["points"]["encode"][str(largest)]["read_memory"] / (largest * CAPTIONS)
    return {
        "image features on the disk": Need(images * image_gb, DISK_GB, "GB"),
        "regions of VSRN on the disk": Need(images * REGIONS * REGION_WIDTH * 2 / 1e9, DISK_GB, "GB"),
        "reading features": Need(of_machine * BATCH * image_gb / step, DISK_RATE, "GB/s"),
        "captions in memory": Need(of_machine * images * CAPTIONS * caption_gb, MACHINE_GB, "GB"),
        "network": Need(gradients_gb / step, NETWORK_RATE, "GB/s"),
        "scores of a batch on a card": Need(SCORE_COPIES * 4 * global_batch**2 / 1e9, CARD_GB, "GB"),
        "embeddings of an evaluation": Need((1 + CAPTIONS) * images * EMBEDDING * 4 / 1e9, MACHINE_GB, "GB"),
        "ranking": Need(ranking_seconds(stored, images, cards * CORES_A_CARD), PATIENCE, "s"),
    }


def step_seconds(stored: dict) -> float:
    """Return the seconds of a step of the whole VSE++: the small one's, by the recurrent products."""
    larger = EMBEDDING * (EMBEDDING + WORD) / (measure.EMBEDDING * (measure.EMBEDDING + measure.WORD))
    return larger * wall_seconds(stored["points"]["train_vsepp"][str(BATCH)])


def ranking_seconds(stored: dict, images: int, cores: int) -> float:
    """Return the seconds of ranking: the time of the largest point, by pairs and by dimensions."""
    largest = stored_sizes(stored, "rank")[-1]
    core_seconds = stored["points"]["rank"][str(largest)]["processor"]
    return core_seconds * (images / largest) ** 2 * EMBEDDING / measure.EMBEDDING / cores


def wall_seconds(point: dict) -> float:
    """Return the wall time of a point, or its processor time on all cores if others ran as well."""
    return point["processor"] / CORES if point["busy"] else point["wall"]


def index_needs(stored: dict, times: int) -> dict[str, tuple[float, float]]:
    """Return GB on the disk and queries a second of each engine at so many times the largest index.

    Both are extended from the largest point in proportion; a query of the inverted file by the root.
    """
    found = {}
    for engine, power in (("index_scan", 1.0), ("index_lists", 0.5)):
        largest = stored_sizes(stored, engine)[-1]
        point, larger = stored["points"][engine][str(largest)], VECTORS / largest * times
        seconds = point["query_processor" if point["busy"] else "query_wall"]
        found[engine] = point["disk"] * larger, 1 / (seconds * larger**power)
    return found
