"""VSRN (KunpengLi1994/VSRN): the model of COCO or of Flickr30K, with its caption decoder or without."""

from engine.conversion.conversion import (
    Conversion,
    Given,
    Source,
    check_options,
    stored_settings,
    without_counters,
)
from engine.conversion.origins.dual import (
    TRAINING_KEYS,
    similarity_settings,
    text_settings,
    text_tensors,
    trained_vocabulary,
)
from engine.conversion.rules import Rule, check_tensors, linear, same, shape_of
from engine.weights.state_dicts import Tensors, state_dict_of, without_prefix
from engine.weights.weight_files import open_weights

_WHAT = "VSRN"
_BLOCK = {"g": "g", "theta": "theta", "phi": "phi", "W.0": "out"}
_STATISTICS = {"weight": "weight", "bias": "bias", "running_mean": "_mean", "running_var": "_variance"}
Expected = dict[str, tuple[int, ...]]


def is_vsrn(source: Source) -> bool:
    """Tell whether the image encoder has VSRN's graph blocks."""
    return any(name.startswith("img.Rs_GCN_") for name in source.tensors)


def convert(source: Source, given: Given) -> Conversion:
    """Return the conversion of a VSRN; raise UserError as `vsepp.convert` does."""
    tensors = dict(source.tensors)
    if given.caption_model is not None:
        decoder, _ = without_prefix(
            state_dict_of(open_weights(given.caption_model), given.caption_model), ("encoder", "decoder")
        )
        tensors |= {f"cap.{name}": tensor for name, tensor in decoder.items()}
    tensors, counters = without_counters(tensors)
    expected, rules, sizes = text_tensors(source, _WHAT)
    dim = sizes["embed_size"]
    _, features = shape_of(source.path, tensors, "img.fc.weight", 2, _WHAT)
    blocks = len({name.split(".")[1] for name in tensors if name.startswith("img.Rs_GCN_")})
    has_norm = any(name.startswith("img.bn.") for name in tensors)
    image, image_rules = _image_tensors(dim, features, blocks, has_norm)
    expected, rules = image | expected, image_rules + rules
    settings = [
        "MODEL.NAME=vsrn",
        *text_settings(sizes),
        f"INPUT.IMG_FEATURE_DIM={features}",
        f"MODEL.GRAPH_BLOCKS={blocks}",
        f"MODEL.IMAGE_BATCHNORM={str(has_norm).lower()}",
        f"MODEL.NORM_REGIONS={str(not has_norm).lower()}",
        *similarity_settings(source, given),
        *stored_settings(source, TRAINING_KEYS),
    ]
    notes = []
    if any(name.startswith("cap.") for name in tensors):
        caption, caption_rules, caption_settings = _caption_tensors(source, tensors, dim, sizes["vocab_size"])
        expected, rules, settings = expected | caption, rules + caption_rules, settings + caption_settings
    else:
        settings.append("LOSS.CAPTION_WEIGHT=0")
        notes.append("without the caption decoder, which evaluation does not need (--caption_model gives it)")
    check_tensors(source.path, tensors, expected, _WHAT)
    found = {name: value for name, value in sizes.items() if name != "bi_gru"}
    check_options(source, found | {"img_dim": features})
    if source.options.get("data_name") in ("coco_precomp", "f30k_precomp"):
        check_options(source, {"data_name": "f30k_precomp" if has_norm else "coco_precomp"})
    words, said = trained_vocabulary(source, given, sizes["vocab_size"])
    settings.append(f"INPUT.TOKENIZER={words.tokenizer}")
    return Conversion(_WHAT, source, rules, tensors, settings, words, counters, notes=notes + said)


def _image_tensors(dim: int, features: int, blocks: int, has_norm: bool) -> tuple[Expected, list[Rule]]:
    expected: Expected = {"img.fc.weight": (dim, features), "img.fc.bias": (dim,)}
    rules = linear("img.fc", "image_encoder.fc")
    for number in range(blocks):
        theirs, ours = f"img.Rs_GCN_{number + 1}", f"image_encoder.blocks.{number}"
        for part, own in _BLOCK.items():
            expected |= {f"{theirs}.{part}.weight": (dim, dim, 1), f"{theirs}.{part}.bias": (dim,)}
            rules += linear(f"{theirs}.{part}", f"{ours}.{own}")
        expected |= _norm(f"{theirs}.W.1", dim)
        rules += _norm_rules(f"{theirs}.W.1", f"{ours}.norm")
    gru, gru_rules = _gru("img.img_rnn", "image_encoder.rnn", dim, dim)
    expected, rules = expected | gru, rules + gru_rules
    if has_norm:
        expected |= _norm("img.bn", dim)
        rules += _norm_rules("img.bn", "image_encoder.norm")
    return expected, rules


def _caption_tensors(
    source: Source, tensors: Tensors, dim: int, vocab: int
) -> tuple[Expected, list[Rule], list[str]]:
    """Return the decoder's tensors, rules and settings; its attention has one matrix for [region; state]."""
    hidden, _ = shape_of(source.path, tensors, "cap.encoder.vid2hid.weight", 2, "VSRN's caption decoder")
    _, word = shape_of(source.path, tensors, "cap.decoder.embedding.weight", 2, "VSRN's caption decoder")
    expected: Expected = {
        "cap.encoder.vid2hid.weight": (hidden, dim),
        "cap.encoder.vid2hid.bias": (hidden,),
        "cap.decoder.embedding.weight": (vocab, word),
        "cap.decoder.attention.linear1.weight": (hidden, 2 * hidden),
        "cap.decoder.attention.linear1.bias": (hidden,),
        "cap.decoder.attention.linear2.weight": (1, hidden),
        "cap.decoder.out.weight": (vocab, hidden),
        "cap.decoder.out.bias": (vocab,),
    }
    attention = "cap.decoder.attention.linear1"
    rules = [
        *linear("cap.encoder.vid2hid", "captioner.region_map"),
        same("cap.decoder.embedding.weight", "captioner.embed.weight"),
        Rule("captioner.attend_region.weight", (f"{attention}.weight",), True, (0, hidden)),
        Rule("captioner.attend_state.weight", (f"{attention}.weight",), True, (hidden, 2 * hidden)),
        same(f"{attention}.bias", "captioner.attend_region.bias"),
        Rule("captioner.attend.weight", ("cap.decoder.attention.linear2.weight",), True),
        *linear("cap.decoder.out", "captioner.out"),
    ]
    encoder, encoder_rules = _gru("cap.encoder.rnn", "captioner.region_rnn", hidden, hidden)
    cell, cell_rules = _gru("cap.decoder.rnn", "captioner.cell", hidden + word, hidden)
    cell_rules = [Rule(rule.ours.removesuffix("_l0"), rule.theirs) for rule in cell_rules]
    keys = {"max_len": "MODEL.CAPTION_MAX_LEN", "input_dropout_p": "MODEL.CAPTION_DROPOUT"}
    settings = [
        f"MODEL.CAPTION_DIM={hidden}",
        f"MODEL.CAPTION_WORD_DIM={word}",
        *stored_settings(source, keys),
    ]
    check_options(source, {"dim_hidden": hidden, "dim_word": word, "dim_vid": dim})
    return expected | encoder | cell, [*rules, *encoder_rules, *cell_rules], settings


def _gru(theirs: str, ours: str, inputs: int, size: int) -> tuple[Expected, list[Rule]]:
    shapes = {"weight_ih_l0": (3 * size, inputs), "weight_hh_l0": (3 * size, size)}
    shapes |= {"bias_ih_l0": (3 * size,), "bias_hh_l0": (3 * size,)}
    expected = {f"{theirs}.{name}": shape for name, shape in shapes.items()}
    return expected, [same(f"{theirs}.{name}", f"{ours}.{name}") for name in shapes]


def _norm(theirs: str, dim: int) -> Expected:
    return {f"{theirs}.{name}": (dim,) for name in _STATISTICS}


def _norm_rules(theirs: str, ours: str) -> list[Rule]:
    return [same(f"{theirs}.{name}", f"{ours}.{own}") for name, own in _STATISTICS.items()]
