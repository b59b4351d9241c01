"""Find the key for the name that a user wrote, or the keys that the user probably meant."""

from difflib import get_close_matches

from config.default import KEYS, Key
from config.errors import UserError, cut
from config.values import user_error

VINVL_NAMES = {  # keys of VinVL-Paddle that have another name here
    "INPUT.BERT_MODEL": ["PRETRAINED.DIR"],
    "OPTIMIZATION.LOSS_TYPE": ["LOSS.NAME"],
}
LIST_OF_KEYS = "`python tools/show_config.py` lists every key"


def find_key(name: str, where: str) -> Key:
    """Return the key with the full `name` SECTION.KEY.

    Raises UserError that suggests similar names.
    """
    section, _, last = name.partition(".")
    if last in KEYS.get(section, {}):
        return KEYS[section][last]
    if name in KEYS:
        raise user_error(where, f"{name} is a section, expected one of its keys, such as {_example(name)}")
    raise unknown_name(name, "key", where)


def unknown_name(name: str, kind: str, where: str) -> UserError:
    """Return the error for a `name` that is no `kind` (a key or a section), with similar names."""
    meant = suggest(name)
    advice = f"did you mean {' or '.join(meant)}?" if meant else LIST_OF_KEYS
    return user_error(where, f"{cut(name, 80)}: there is no such {kind}; {advice}")


def suggest(name: str) -> list[str]:
    """Return at most three sections or full keys that `name` may stand for, the most likely first.

    Case is ignored, and dashes count as underscores. If keys of the section end with that name, such as
    OUTPUT.CHECKPOINT_DIR for OUTPUT.DIR, these are the result; if the key exists in another section, it is
    that key; otherwise it is the keys with a similar name in the given section, or else in all sections.
    """
    wanted = name.upper().replace("-", "_")
    section, _, last = wanted.rpartition(".")
    every = {f"{of}.{key}": key for of, keys in KEYS.items() for key in keys}
    if wanted in every or wanted in KEYS:
        return [wanted]
    if wanted in VINVL_NAMES:
        return VINVL_NAMES[wanted]
    same_key = [full for full, key in every.items() if key == last]
    longer = [f"{section}.{key}" for key in KEYS.get(section, {}) if key.endswith(f"_{last}")]
    if longer:
        return longer[:3]
    if same_key:
        close = get_close_matches(section, list(KEYS), n=1)
        in_section = [full for full in same_key if close and full.startswith(close[0] + ".")]
        return in_section or get_close_matches(wanted, same_key, n=3, cutoff=0)
    if not section:
        return get_close_matches(wanted, list(KEYS), n=1) or _similar_keys(last, list(every))
    close = get_close_matches(section, list(KEYS), n=1)
    in_section = [full for full in every if close and full.startswith(close[0] + ".")]
    return _similar_keys(last, in_section) or _similar_keys(last, list(every))


def _similar_keys(last: str, full_names: list[str]) -> list[str]:
    """Return at most three of `full_names` whose last part resembles `last`, the most similar first."""
    alike = get_close_matches(last, {full.partition(".")[2] for full in full_names}, n=3, cutoff=0.7)
    return [full for key in alike for full in full_names if full.endswith("." + key)][:3]


def _example(section: str) -> str:
    return f"{section}.{next(iter(KEYS[section]))}"
