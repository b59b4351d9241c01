"""Count named protocols from one file of scores: values with certificates, a table, and `result.json`."""

from collections.abc import Sequence
from dataclasses import dataclass

from config.errors import UserError
from engine.certificates.stored import Certificate, certificate_of
from engine.protocols.protocols import PROTOCOLS, QUIRKS, Counted, Request, count_protocols
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


def measure_protocols(
    request: Request, names: Sequence[str], resamples: int, seed: int
) -> list[MeasuredProtocol]:
    """Count the protocols `names`; raise UserError for a name that is none, and for missing files."""
    for name in names:
        if name not in PROTOCOLS:
            raise UserError(f"--protocol: expected some of {', '.join(PROTOCOLS)}, got {name}")
    for quirk in request.quirks:
        if quirk not in QUIRKS:
            raise UserError(f"--quirk: expected some of {', '.join(QUIRKS)}, got {quirk}")
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
