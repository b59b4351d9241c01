"""Count named protocols from one file of scores: values with certificates, a table, and `result.json`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from config.errors import UserError, cut
from engine.certificates.stored import Certificate, certificate_of
from engine.protocols.pmrp import OBJECTS
from engine.protocols.protocols import DATA, PROTOCOLS, QUIRKS, Counted, Request, count_protocols
from engine.ranking.counter import TIE_RULES


@dataclass(frozen=True)
class MeasuredProtocol:
    """The outcome of a protocol: its name, what it counted, its certificate, and a stamp of every choice."""

    name: str
    counted: Counted
    certificate: Certificate
    stamp: dict[str, object]

    def as_dict(self) -> dict:
        """Return the entry of `result.json`."""
        metrics = {name: one.value for name, one in self.certificate.metrics.items()}
        return {"metrics": metrics, "protocol": self.stamp, "certificate": self.certificate.as_dict()}

    def lines(self) -> list[str]:
        """Return the lines of a table, with the choices."""
        choices = ", ".join(
            f"{name.replace('_', ' ')}: {value}" for name, value in self.counted.choices.items()
        )
        return ["", f"{PROTOCOLS[self.name].title} ({choices})", *self.certificate.lines()[2:]]


def check_protocols(
    names: Sequence[str],
    data: Path | None,
    objects: Path | None,
    quirks: Iterable[str] = (),
    data_option: str = "--data",
) -> None:
    """Raise UserError for a name that is no protocol or quirk, and for a file of a protocol that is missing.

    `data` and `objects` are those of a `Request`; `data_option` is the tool's option for `data`.
    """
    files = {"data": (data_option, data, DATA), "objects": ("--objects", objects, OBJECTS)}
    for name in names:
        _check_name("--protocol", name, PROTOCOLS)
        if not PROTOCOLS[name].needs:
            continue
        option, path, expected = files[PROTOCOLS[name].needs]
        if path is None:
            raise UserError(f"{option}: --protocol {name}: expected {expected}, got none")
        if not path.exists():
            raise UserError(f"{option}: {path}: no such file or folder, expected {expected}")
    for quirk in quirks:
        _check_name("--quirk", quirk, QUIRKS)


def _check_name(option: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        close = get_close_matches(name.lower(), list(known), n=1)
        advice = f"; did you mean {close[0]}?" if close else ""
        raise UserError(f"{option}: expected some of {', '.join(known)}, got {cut(name)}{advice}")


def measure_protocols(
    request: Request, names: Sequence[str], resamples: int, seed: int
) -> list[MeasuredProtocol]:
    """Count the protocols `names`; raise UserError for scores or files that a protocol does not fit."""
    found = []
    for name, counted in zip(names, count_protocols(request, names), strict=True):
        certificate = certificate_of(counted.sides, request.tie_rule, max(1, resamples), seed)
        assert certificate is not None
        stamp = {
            "name": name,
            "title": PROTOCOLS[name].title,
            **counted.choices,
            "queries": {prefix.rstrip("_"): len(side.query) for prefix, side in counted.sides.items()},
            "quirks": sorted(request.quirks),
            "tie_rule": request.tie_rule,
            "tie_rule_text": TIE_RULES[request.tie_rule],
        }
        found.append(MeasuredProtocol(name, counted, certificate, stamp))
    return found
