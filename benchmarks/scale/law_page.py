"""Writes docs/scale.md and docs/images/scale.png from the points in docs/scale.json."""

from pathlib import Path

from laws import LARGEST, LAWS, SIZES, TOLERANCE, Law, exponent, grows_too_fast, stored_sizes
from paper import ASSUMPTIONS, CARDS, IMAGES, TIMES, VECTORS, index_needs, training_needs

DOCS = Path(__file__).resolve().parents[2] / "docs"
UNITS = {"s": ((1.0, "s"), (1e-3, "ms")), "GB": ((1.0, "GB"), (1e-3, "MB"))}
COLOURS = ("#b2182b", "#2166ac", "#1b7837", "#762a83")
PANELS = {
    "a training step": ("VSE++, a training step", "VSRN, a training step"),
    "an evaluation": ("Evaluation: reading", "Evaluation: encoding", "Evaluation: ranking both ways"),
    "an index": (
        "Exact index: build",
        "Inverted file: build",
        "Exact index: a query",
        "Inverted file: a query",
    ),
    "memory": (
        "VSE++, memory of training",
        "VSRN, memory of training",
        "Evaluation: memory of encoding",
        "Inverted file: memory of the build",
    ),
}
X_TITLES = ("pairs in a batch", "images", "vectors", "pairs, images or vectors")


def write_page(stored: dict) -> None:
    """Write the page and its picture from what is stored; parts that are not measured are left out."""
    laws = [law for law in LAWS if len(law.points(stored)[0])]
    (DOCS / "scale.md").write_text(page(stored, laws))
    draw(stored).savefig(DOCS / "images" / "scale.png", dpi=110)
    too_fast = [law.title for law in laws if grows_too_fast(law, *law.points(stored)[:2])]
    print(f"grows faster than its work: {'; '.join(too_fast) or 'nothing'}; wrote docs/scale.md")


def page(stored: dict, laws: list[Law]) -> str:
    """Return the text of docs/scale.md."""
    rows = [row(stored, law) for law in laws]
    table = [
        "| cost | over | smallest | largest | exponent | of the largest three | of the work | grows by |",
        "|---|---|---|---|---|---|---|---|",
        *rows,
    ]
    sections = [
        INTRODUCTION,
        "\n".join(table),
        NOTES.format(machine=stored["machine"], busy=busy(stored, laws) + missing(stored)),
    ]
    if all(stored_sizes(stored, part) for part in SIZES):
        sections.append(on_paper(stored))
    return "\n\n".join(sections) + "\n"


def row(stored: dict, law: Law) -> str:
    sizes, values, of_processor = law.points(stored)
    ends = [
        f"{shown(value, law.unit)}{'*' if law.is_time and of_processor else ''}" for value in values[[0, -1]]
    ]
    late = exponent(sizes[-LARGEST:], values[-LARGEST:])
    mark = "**" if grows_too_fast(law, sizes, values) else ""
    spread = f"{sizes[0]:,.0f} to {sizes[-1]:,.0f}"
    cells = [
        law.title,
        spread,
        *ends,
        f"{exponent(sizes, values):.2f}",
        f"{mark}{late:.2f}{mark}",
        f"{law.work:g}",
    ]
    return f"| {' | '.join([*cells, law.why])} |"


def shown(value: float, unit: str) -> str:
    factor, name = next((each for each in UNITS[unit] if value >= each[0]), UNITS[unit][-1])
    return f"{value / factor:.3g} {name}"


def busy(stored: dict, laws: list[Law]) -> str:
    parts = sorted({law.part for law in laws if law.points(stored)[2]})
    if not parts:
        return "No other program ran beside the measurements."
    return (
        "Times with * are processor time, of all threads together, since other programs ran meanwhile "
        f"({', '.join(parts)})."
    )


def missing(stored: dict) -> str:
    """Say which points are not measured yet."""
    left = {part: len(SIZES[part]) - len(stored_sizes(stored, part)) for part in SIZES}
    parts = ", ".join(f"{part} {count}" for part, count in left.items() if count)
    return f" Points that are not measured yet: {parts}; `make scale` measures them." if parts else ""


def on_paper(stored: dict) -> str:
    """Return the section about 10 and 100 times the size."""
    lines = []
    for times in TIMES:
        needs = {cards: training_needs(stored, times, cards) for cards in CARDS}
        first = {cards: max(needs[cards], key=lambda name: needs[cards][name].share) for cards in CARDS}
        for name in needs[CARDS[0]]:
            cells = []
            for cards in CARDS:
                need = needs[cards][name]
                mark = "**" if name == first[cards] else ""
                amount = f"{need.need:,.0f}" if need.need >= 100 else f"{need.need:.2g}"
                cells.append(f"{mark}{amount} of {need.limit:,g} {need.unit}{mark}")
            lines.append(f"| {times} x | {name} | {' | '.join(cells)} |")
    index = []
    for times in TIMES:
        of_engine = index_needs(stored, times)
        cells = [f"{disk:.3g} GB | {rate:.3g}" for disk, rate in of_engine.values()]
        index.append(f"| {VECTORS * times:,} | {' | '.join(cells)} |")
    of_cards = " | ".join(f"{cards} card{'s' * (cards > 1)}" for cards in CARDS)
    head = f"| COCO ({IMAGES:,} images) | need | {of_cards} |"
    return PAPER.format(
        assumptions=ASSUMPTIONS,
        table="\n".join([head, "|---" * (2 + len(CARDS)) + "|", *lines]),
        index="\n".join(index),
    )


def draw(stored: dict):
    """Return the figure of all laws, in logarithms."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.5), layout="constrained")
    by_title = {law.title: law for law in LAWS}
    for axes, (title, names), below in zip(figure.subplots(2, 2).flat, PANELS.items(), X_TITLES, strict=True):
        for name, colour in zip(names, COLOURS, strict=False):
            law = by_title[name]
            sizes, values, _ = law.points(stored)
            if not len(sizes):
                continue
            power = exponent(sizes[-LARGEST:], values[-LARGEST:])
            axes.loglog(sizes, values, "o-", color=colour, markersize=4, label=f"{name}: {power:.2f}")
        axes.set(title=title, xlabel=below, ylabel="GB" if title == "memory" else "seconds")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9)
    return figure


INTRODUCTION = f"""\
# How costs grow

`make scale` measures each cost at several sizes and writes this page (`benchmarks/scale/`). A row's
exponent says how fast the cost grows: with an exponent of 1, ten times the size costs ten times as much.
It is the slope of a straight line through the logarithms of all points (least squares), and of the
largest {LARGEST} alone, where what is paid once no longer shows. A bold exponent of the largest points is
more than {TOLERANCE:g} above that of the work itself.

![Seconds and memory over size, in logarithms, with the exponents of the largest points](images/scale.png)"""

NOTES = """\
The models are small: embeddings of 256 numbers, words of 128, image features of 1,024, regions of 36 x
512. Memory is what the work adds to the peak of its process. Captions are 8 to 20 random words out of
10,000; what is ranked are unit vectors of normal numbers, where a caption resembles its image; what is
indexed are vectors of 256 numbers in clusters of fifty. A query is one of sixty that come one at a time.
{busy} The points themselves are in `docs/scale.json`.

{machine}"""

PAPER = """\
## What breaks first at 10 and 100 times the size

This is arithmetic, and no run: cards and machines of this kind were not there. It takes the points above,
and assumes:

{assumptions}

Bold is what takes the largest share of its limit; above the limit, it breaks.

{table}

- *Reading features* counts all images of a step from the disk. What fits into the memory of a machine is
  read from there after the first epoch.
- *Captions in memory* are those of all processes of a machine, each of which reads all captions.
- *Network* is a ring: each machine sends and receives the gradients almost twice a step, and nothing
  overlaps.
- *Scores of a batch* grow with the square of the cards, since every process computes the loss of the
  whole batch ([distributed.md](distributed.md)); `LOSS.CROSS_RANK_NEGATIVES=false` keeps to a card's own.
- *Ranking* compares every image with every caption. `EVAL.FOLDS` divides the work by the number of folds.

An index on one machine as measured, one query at a time; the exact one reads all vectors for each query:

| vectors | exact: on the disk | queries/s | inverted file: on the disk | queries/s |
|---|---|---|---|---|
{index}"""
