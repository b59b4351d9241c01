"""What breaks first at 10 and 100 times the size: arithmetic from the measured points, for 1, 8 and 64 cards.

Nothing here was run on cards. The assumptions are constants, and the page prints them.
"""

from dataclasses import dataclass

from laws import stored_sizes

IMAGES, CAPTIONS, VECTORS = 113_287, 5, 1_000_000  # COCO, and the largest index that was measured
TIMES, CARDS = (1, 10, 100), (1, 8, 64)
REGIONS, REGION_WIDTH, EMBEDDING, WEIGHTS = 36, 2048, 1024, 11_000_000  # of COCO's features and of VSE++
BATCH = 128  # pairs a card
CARD_SPEED, CORES_A_CARD, CARDS_A_MACHINE = 50, 16, 8  # a card is so many times as fast as the cores measured
CARD_GB, MACHINE_GB, DISK_GB = 24, 512, 4000
DISK_RATE, NETWORK_RATE = 3.0, 12.5  # GB/s of a machine
PATIENCE = 3600.0  # seconds that a ranking may take
SCORE_COPIES = 4  # scores, their gradient, and two masks
CORES = 2  # of the machine that was measured

ASSUMPTIONS = f"""\
- The data is COCO: {IMAGES:,} images with {CAPTIONS} captions each, {REGIONS} x {REGION_WIDTH} regions in
  float16.
- The model is VSE++ with {WEIGHTS // 10**6} million weights and embeddings of {EMBEDDING} numbers. A card
  takes {BATCH} pairs a step.
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
    image_gb = REGIONS * REGION_WIDTH * 2 / 1e9
    step = wall_seconds(stored["points"]["train_vsepp"][str(BATCH)]) / CARD_SPEED
    global_batch = BATCH * cards
    gradients_gb = 2 * 4 * WEIGHTS / 1e9 * (machines - 1) / machines
    largest = stored_sizes(stored, "encode")[-1]
    caption_gb = stored["points"]["encode"][str(largest)]["read_memory"] / (largest * CAPTIONS)
    return {
        "disk": Need(images * image_gb, DISK_GB, "GB"),
        "reading regions": Need(of_machine * BATCH * image_gb / step, DISK_RATE, "GB/s"),
        "captions in memory": Need(of_machine * images * CAPTIONS * caption_gb, MACHINE_GB, "GB"),
        "network": Need(gradients_gb / step, NETWORK_RATE, "GB/s"),
        "scores of a batch on a card": Need(SCORE_COPIES * 4 * global_batch**2 / 1e9, CARD_GB, "GB"),
        "embeddings of an evaluation": Need((1 + CAPTIONS) * images * EMBEDDING * 4 / 1e9, MACHINE_GB, "GB"),
        "ranking": Need(ranking_seconds(stored, images, cards * CORES_A_CARD), PATIENCE, "s"),
    }


def ranking_seconds(stored: dict, images: int, cores: int) -> float:
    """Return the seconds of ranking: the time of the largest point, by pairs and by dimensions."""
    from measure import EMBEDDING as MEASURED

    largest = stored_sizes(stored, "rank")[-1]
    core_seconds = stored["points"]["rank"][str(largest)]["processor"]
    return core_seconds * (images / largest) ** 2 * EMBEDDING / MEASURED / cores


def wall_seconds(point: dict) -> float:
    """Return the wall time of a point, or its processor time on all cores if others ran as well."""
    return point["processor"] / CORES if point["busy"] else point["wall"]


def index_needs(stored: dict, times: int) -> dict[str, tuple[float, float]]:
    """Return memory in GB and queries a second of each engine at so many times the largest index.

    Both are extended from the largest point in proportion; a query of the inverted file by the root.
    """
    found = {}
    for engine, power in (("index_scan", 1.0), ("index_lists", 0.5)):
        largest = stored_sizes(stored, engine)[-1]
        point, times_larger = stored["points"][engine][str(largest)], VECTORS / largest * times
        seconds = point["query_processor" if point["busy"] else "query_wall"]
        found[engine] = point["memory"] * times_larger, 1 / (seconds * times_larger**power)
    return found
