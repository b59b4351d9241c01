"""The card of a model: its training data, how it was measured, its numbers with intervals, its limits."""

from engine.certificates.sides import Certified, describe
from engine.certificates.stored import certified_of, title_of


def model_card(content: dict) -> str:
    """Return the card, Markdown, of the checkpoint that a `result.json` with the `content` measured."""
    checkpoint, protocol, config = content["checkpoint"], content["protocol"], content["config"]
    dataset = config["DATASET"]
    name = dataset["NAME"] or dataset["FORMAT"]
    shown = [name for name in content["metrics"] if not name.endswith(("medr", "meanr"))]
    certified = certified_of(content)
    rows = [f"| {title_of(metric)} | {_value(content, certified, metric)} |" for metric in shown]
    return "\n".join(
        [
            f"# {checkpoint['model']} on {name}",
            "",
            f"- **Weights**: step {checkpoint['step']}, SHA-256 `{checkpoint['sha256']}`",
            f"- **Trained on**: the split `{dataset['TRAIN']}`; chosen on `{dataset['DEV']}` by "
            f"{config['MONITOR']['BEST_METRIC']}; seed {config['MISC']['SEED']}",
            f"- **Model**: {_settings(config['MODEL'], ('EMBED_DIM', 'CNN', 'NUM_LAYERS'))}; loss "
            f"{config['LOSS']['NAME']}",
            f"- **Measured on**: {_protocol(protocol)}",
            f"- **Versions**: {_settings(content['versions'])}",
            "",
            "| metric | value, in percent |",
            "|---|---|",
            *rows,
            "",
            _meaning(content),
            "",
            "## Limits",
            "",
            *_limits(content, certified),
            "",
        ]
    )


def _value(content: dict, certified: dict[str, Certified], metric: str) -> str:
    return describe(certified[metric]) if metric in certified else f"{content['metrics'][metric]:.1f}"


def _settings(values: dict, names: tuple[str, ...] = ()) -> str:
    kept = {name: values[name] for name in names or values if values.get(name)}
    return ", ".join(f"{name.lower()} {value}" for name, value in kept.items())


def _protocol(protocol: dict) -> str:
    sizes = [f"{protocol[name]:,} {name}" for name in ("images", "captions", "classes") if name in protocol]
    folds = f", mean of {protocol['folds']} folds" if protocol["folds"] > 1 else ""
    relevance = f"; right ones by {protocol['relevance']}" if "relevance" in protocol else ""
    bank = (
        f"; scores normalised by a bank of {protocol['query_bank']['split']}"
        if "query_bank" in protocol
        else ""
    )
    return f"`{protocol['split']}`, {', '.join(sizes)}{folds}{relevance}{bank}; ties {protocol['tie_rule']}"


def _meaning(content: dict) -> str:
    entry = content.get("certificate")
    if not entry:
        return "No intervals were computed (EVAL.RESAMPLES=0)."
    return (
        f"± is half of the 95% interval: bootstrap over {entry['over']}, {entry['resamples']:,} resamples "
        f"from seed {entry['seed']}. The tie interval has the values under the harshest and the friendliest "
        "tie rule; chance is what random scores reach."
    )


def _limits(content: dict, certified: dict[str, Certified]) -> list[str]:
    """Return what follows from the numbers alone."""
    protocol = content["protocol"]
    found = ["- One seed: the intervals are over queries alone, and say nothing about other seeds."]
    near = [
        title_of(name)
        for name, one in certified.items()
        if one.chance is not None and one.interval.low < one.chance
    ]
    if near:
        found.append(f"- Not distinguishable from chance: {', '.join(near)}.")
    tied = [title_of(name) for name, one in certified.items() if one.tied and one.tie[1] - one.tie[0] >= 1]
    if tied:
        found.append(f"- Decided by ties to a point or more: {', '.join(tied)}.")
    captions, sentences = protocol.get("captions"), protocol.get("distinct_sentences")
    if captions and sentences < 0.9 * captions:
        found.append(f"- Only {sentences:,} of the {captions:,} captions are different sentences.")
    gone = {name: count for name, count in protocol.get("left_out", {}).items() if count}
    if gone:
        found.append(
            f"- Left out, without a right one: {', '.join(f'{n:,} {name}' for name, n in gone.items())}."
        )
    found.append("- Nothing was measured on data of another kind than this split.")
    return found
