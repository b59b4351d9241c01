"""The parity sheet: each tensor's name, shape and layout on both sides, what was left out, what differs."""

from engine.conversion.conversion import Conversion
from engine.runs.run_status import SHEET_FILE
from engine.weights.state_dicts import Tensors

_SHOWN = 60  # rows of the printed table


def sheet_of(conversion: Conversion, tensors: Tensors) -> dict:
    """Return the sheet as JSON can hold it; `tensors` are ours.

    `original` lists the file's tensors in its order, with their types, from which `--to torch` restores them.
    """
    rows = [
        {
            "tensor": rule.ours,
            "shape": list(tensors[rule.ours].shape),
            "from": list(rule.theirs),
            "their_shapes": [list(conversion.tensors[name].shape) for name in rule.theirs],
            "layout": rule.layout() or "the same",
            "transposed": rule.transposed,
            "columns": list(rule.columns) if rule.columns else None,
        }
        for rule in conversion.rules
    ]
    source = conversion.source
    original = [
        {"name": name, "shape": list(tensor.shape), "type": tensor.kind}
        for name, tensor in conversion.tensors.items()
    ]
    return {
        "origin": conversion.origin,
        "source": {"file": str(source.path), "bytes": source.path.stat().st_size, "prefix": source.prefix},
        "tensors": rows,
        "original": original,
        "left_out": conversion.left_out,
        "untrained": conversion.untrained,
        "settings": conversion.settings,
        "options": plain(source.options),
        "entries": plain(source.entries),
        "notes": conversion.notes,
    }


def plain(content: object) -> object:
    """Return nested containers of an original as JSON can hold them; anything else becomes text."""
    if isinstance(content, dict):
        return {str(key): plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [plain(value) for value in content]
    return content if content is None or type(content) in (bool, int, float, str) else str(content)[:200]


def table(sheet: dict) -> list[str]:
    """Return the sheet as lines: a table of the tensors, what was left out, notes, and the comparison."""
    rows = [("tensor", "shape", "from", "shape", "layout")]
    rows += [
        (
            row["tensor"],
            _shape(row["shape"]),
            _of_several(row["from"]),
            _of_several(list(map(_shape, row["their_shapes"]))),
            row["layout"],
        )
        for row in sheet["tensors"][:_SHOWN]
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    more = len(sheet["tensors"]) - _SHOWN
    if more > 0:
        lines.append(f"and {more} more, all in {SHEET_FILE}")
    lines += [f"note: {note}" for note in sheet["notes"]]
    return lines + reference_lines(sheet.get("reference"))


def reference_lines(reference: dict | None) -> list[str]:
    """Return the lines of a comparison with the original's outputs."""
    if not reference:
        return []
    lines = [
        f"compared: {name}: largest difference {row['largest_difference']:.3g} of values up to "
        f"{row['largest']:.3g}"
        for name, row in reference["outputs"].items()
    ]
    for name, row in reference["ranks"].items():
        lines.append(f"compared: {name}: {row['equal']:,} of {row['queries']:,} ranks are the same")
    if reference["agrees"]:
        return [*lines, f"outputs are the original's to {reference['bound']:g}, and ranks exactly"]
    return [
        *lines,
        f"NOT the original's: outputs differ by more than {reference['bound']:g}, or ranks differ",
    ]


def _of_several(texts: list[str]) -> str:
    return texts[0] + (f" and {len(texts) - 1} more" if len(texts) > 1 else "")


def _shape(shape: list[int]) -> str:
    return "x".join(map(str, shape)) or "-"
