"""Every configuration key: its default, its meaning, its unit and its choices.

A task file (YAML) overlays these defaults and `KEY=VALUE` on the command line overlays the file;
`config/load.py` does the merging and checks every value against the `Key` that stands here.
"""

from dataclasses import dataclass

from yacs.config import CfgNode

from config.families import FAMILIES, LOSSES, describe_losses

Scalar = bool | int | float | str


@dataclass(frozen=True)
class Key:
    """One configuration key.

    The type of `default` is the type of the key (an int is accepted where a float is expected).
    `choices`, `minimum`, `above` (an exclusive minimum), `maximum` and `below` (an exclusive maximum)
    bound the value or, for a list, each element; `element` is the type of a list's elements and
    `length`, where given, their number.
    """

    default: Scalar | list
    meaning: str
    choices: tuple[Scalar, ...] | None = None
    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    below: float | None = None
    element: type | None = None
    length: int | None = None


KEYS: dict[str, dict[str, Key]] = {
    "INPUT": {
        "IMG_FEATURE_DIM": Key(4096, "width F of an image's (or region's) feature vector", minimum=1),
        "STANDARDIZE": Key(
            False,
            "standardise image features with the training split's mean and deviation; "
            "both are stored in the checkpoint",
        ),
        "TOKENIZER": Key(
            "simple",
            "simple: words, numbers and punctuation by one regular expression; nltk: the tokens of "
            "VSE++, SCAN and VSRN; whitespace: the tokens of VSE",
            choices=("simple", "nltk", "whitespace"),
        ),
        "VOCAB_FILE": Key(
            "",
            "vocabulary to use, JSON, or of oscar BERT's vocab.txt; empty: build one from VOCAB_SPLITS (and, "
            "for oscar, the tags of the training split)",
        ),
        "VOCAB_LAYOUT": Key(
            "vsepp",
            "vsepp: <pad> <start> <end> <unk>, words by first sight, captions between <start> and "
            "<end>; vse: <end> <unk>, words by frequency, captions before <end>",
            choices=("vsepp", "vse"),
        ),
        "VOCAB_THRESHOLD": Key(4, "a word enters the vocabulary when it occurs this often", minimum=1),
        "VOCAB_SPLITS": Key(
            [],
            "splits whose words build the vocabulary; empty: the training split alone (the originals "
            "also read dev and test, which leaks words)",
            element=str,
        ),
        "MAX_SEQ_LEN": Key(
            0,
            "longest caption in tokens, start and end included; 0: no limit; oscar: most tokens of caption "
            "and tags together, 3 at least",
            minimum=0,
        ),
        "LONG_CAPTIONS": Key(
            "cut",
            "what happens to a training caption over MAX_SEQ_LEN; in evaluation it is always cut",
            choices=("cut", "drop"),
        ),
        "MAX_REGION": Key(50, "oscar: most regions of an image; the first ones are taken", minimum=1),
        "ADD_OD_LABEL": Key(True, "oscar: read the image's object tags beside the caption"),
        "DO_LOWER_CASE": Key(True, "oscar: captions and tags lose case and accents"),
        "ATT_MASK_TYPE": Key(
            "CLR",
            "oscar: which of caption (C), tags (L) and regions (R) attend to each other",
            choices=("CLR", "CL", "CR", "LR"),
        ),
        "NUM_CAPTIONS_PER_IMAGE_TRN": Key(
            0, "vinvl: captions of an image in training, the first ones; 0: all", minimum=0
        ),
        "NUM_CAPTIONS_PER_IMAGE_DEV": Key(
            0,
            "vinvl: the same in evaluation; with EVAL.EVAL_CAPTION_INDEX_FILE, of an image's candidates, and "
            "all captions are there",
            minimum=0,
        ),
        "CROP_SIZE": Key(224, "side of the square that a CNN sees, in pixels", minimum=32),
        "RESIZE": Key(
            256,
            "short side that a picture is brought to in evaluation, in pixels, before the middle is taken",
            minimum=32,
        ),
        "CROP_AREA": Key(
            [0.08, 1.0],
            "training: least and largest share of a picture's area that a crop takes; it is then brought "
            "to CROP_SIZE",
            element=float,
            above=0,
            maximum=1,
            length=2,
        ),
        "FLIP": Key(True, "training: mirror half of the pictures left to right"),
        "UNREADABLE": Key(
            "refuse",
            "cnn: what becomes of a picture that cannot be read; refuse: end with its name; skip: leave it "
            "out, and name it in the end",
            choices=("refuse", "skip"),
        ),
    },
    "DATASET": {
        "NAME": Key("", "name of the data set, for logs and results"),
        "FORMAT": Key(
            "precomp",
            "where captions come from; precomp: SPLIT_caps.txt; karpathy: CAPTION_FILE in Karpathy's "
            "JSON; csv: CAPTION_FILE with the columns image,caption and optionally split; json: "
            "CAPTION_FILE from images to captions, a list of records, or COCO's captions file; vinvl: "
            "CAPTION_FILE in JSON, image key -> captions (empty: SPLIT_captions.json)",
            choices=("precomp", "karpathy", "csv", "json", "vinvl"),
        ),
        "DATA_DIR": Key("", "folder that holds SPLIT_ims.npy (and captions and ids)"),
        "FEAT_FILE": Key(
            "",
            "file of features, relative to DATA_DIR: .npy, .h5, or .tsv of VinVL, bottom-up attention or "
            "LXMERT; {split} in it stands for the split's name, and without, one file holds all splits' "
            "images; empty: SPLIT_ims.npy",
        ),
        "CAPTION_FILE": Key(
            "", "caption file of the formats karpathy, csv, json and vinvl, relative to DATA_DIR"
        ),
        "TAG_FILE": Key(
            "",
            "oscar: file of the images' tags, relative to DATA_DIR: a detector's predictions (.tsv) or a "
            "class an image (.txt); {split} in it stands for the split's name; empty: the tags that belong "
            "to the features",
        ),
        "IMAGE_DIR": Key(
            "",
            "folder of the pictures, or a zip file of one, for CNNs and for reports; relative to DATA_DIR; "
            "{split} in it stands for the split's name (CNNs)",
        ),
        "LABEL_FILE": Key(
            "",
            "cnn: list of a split's pictures and their classes, a line `path label` each, relative to "
            "DATA_DIR; {split} in it stands for the split's name; empty: each folder in IMAGE_DIR is a class",
        ),
        "TRAIN": Key("train", "name of the training split"),
        "DEV": Key("dev", "name of the split that chooses the best checkpoint"),
        "TEST": Key("test", "name of the split that results are reported on"),
        "USE_RESTVAL": Key(False, "karpathy: add the restval split to the training split"),
        "DISTINCT_CAPTIONS": Key(
            False, "train once an epoch on a sentence that an image has several times, not once for each"
        ),
        "CAPTIONS_PER_IMAGE": Key(
            0,
            "precomp without ids: captions that share one image row, or consecutive rows that are one "
            "image; 0: found out from the files",
            minimum=0,
        ),
    },
    "MODEL": {
        "NAME": Key("vsepp", "model family", choices=tuple(FAMILIES)),
        "EMBED_DIM": Key(1024, "width D of the joint embedding", minimum=1),
        "CNN": Key(
            "",
            "network that encodes pictures from IMAGE_DIR (vsepp, vse, cnn); empty: features from a file",
            choices=(
                *("", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
                *("mobilenet_v2", "vgg16", "vgg19"),
            ),
        ),
        "CNN_WEIGHTS": Key(
            "", "weights that the CNN starts from, a file of tools/convert_cnn.py; empty: random ones"
        ),
        "CNN_DIM": Key(
            0, "cnn: width of a linear map of the network's features; 0: they are the embedding", minimum=0
        ),
        "CNN_FREEZE_EPOCHS": Key(
            0, "epochs before the CNN is trained too; until then it stays as it is; -1: all", minimum=-1
        ),
        "WORD_DIM": Key(300, "width of a word vector", minimum=1),
        "NUM_LAYERS": Key(1, "layers of the text GRU (vsepp, vsrn)", minimum=1),
        "BIDIRECTIONAL": Key(False, "text GRU in both directions, averaged (vsepp, vsrn)"),
        "TEXT_POOLING": Key(
            "last",
            "what becomes of the states of the text's recurrent network; last: the one at the caption's "
            "end, as in VSE and VSE++; mean, max: over all words",
            choices=("last", "mean", "max"),
        ),
        "TEXT_DROPOUT": Key(
            0.0, "share of each word vector that is dropped in training", minimum=0, maximum=0.9
        ),
        "IMAGE_DROPOUT": Key(
            0.0, "share of the image features that is dropped in training", minimum=0, maximum=0.9
        ),
        "MEASURE": Key("cosine", "similarity of image and caption", choices=("cosine", "order")),
        "USE_ABS": Key(False, "take absolute values of the embeddings, as order embeddings do"),
        "NO_IMGNORM": Key(False, "do not l2-normalise image embeddings"),
        "GRAPH_BLOCKS": Key(4, "vsrn: steps of reasoning among an image's regions", minimum=1),
        "NORM_REGIONS": Key(
            True,
            "vsrn: l2-normalise the mapped features over an image's regions, as the released COCO model does",
        ),
        "IMAGE_BATCHNORM": Key(
            False,
            "vsrn: batch-normalise the last state of the GRU over regions, as the released Flickr30K model "
            "does",
        ),
        "SYNC_BATCHNORM": Key(
            True,
            "several processes: batch normalisation (vsrn, CNNs) over the batches of all, as in one process "
            "with the whole batch; false: each over its own, which saves two messages a layer",
        ),
        "CAPTION_DIM": Key(512, "vsrn: width of the caption decoder", minimum=1),
        "CAPTION_WORD_DIM": Key(300, "vsrn: width of the caption decoder's word vectors", minimum=1),
        "CAPTION_MAX_LEN": Key(
            60, "vsrn: longest caption that the decoder learns, in tokens; longer ones are cut", minimum=3
        ),
        "CAPTION_DROPOUT": Key(
            0.2, "vsrn: share of the decoder's inputs that is dropped in training", minimum=0, maximum=0.9
        ),
        "BERT_DIM": Key(768, "oscar: width of BERT's rows", minimum=1),
        "BERT_LAYERS": Key(12, "oscar: layers of BERT", minimum=1),
        "BERT_HEADS": Key(12, "oscar: attention heads of a layer; they divide BERT_DIM", minimum=1),
        "BERT_INNER_DIM": Key(3072, "oscar: width inside a layer", minimum=1),
        "BERT_POSITIONS": Key(512, "oscar: positions of tokens that BERT knows", minimum=3),
        "BERT_DROPOUT": Key(
            0.1, "oscar: share of each row that is dropped in training", minimum=0, maximum=0.9
        ),
        "BERT_ATTENTION_DROPOUT": Key(
            0.1, "oscar: share of the attention weights that is dropped in training", minimum=0, maximum=0.9
        ),
        "BERT_NORM_EPSILON": Key(1e-12, "oscar: epsilon of the layer normalisations", above=0),
        "BERT_DEVIATION": Key(0.02, "oscar: standard deviation of new weights", above=0),
        "BERT_POSITION_START": Key(
            "random",
            "oscar: what the vectors of positions are before training; waves: sines and cosines, from which "
            "a small model learns the order of words sooner",
            choices=("random", "waves"),
        ),
        "IMG_LAYERNORM": Key(True, "oscar: layer-normalise the mapped regions"),
        "IMG_LAYERNORM_EPSILON": Key(1e-12, "oscar: epsilon of that normalisation", above=0),
        "CLASSIFIER": Key("linear", "oscar: head over the pair's row", choices=("linear", "mlp")),
        "CLASSIFIER_SCALE": Key(2, "oscar: hidden units of the mlp for each of BERT_DIM", minimum=1),
    },
    "LOSS": {
        "NAME": Key("hinge", describe_losses(), choices=tuple(LOSSES)),
        "MARGIN": Key(
            0.2,
            "margin of the hinge, in units of similarity; of images, in squared distances of unit vectors",
            minimum=0,
        ),
        "SECOND_MARGIN": Key(
            0.1, "quadruplet: margin between a pair of one class and a pair of two others", minimum=0
        ),
        "LABEL_SMOOTHING": Key(
            0.1, "softmax: share of the target that all classes have in equal parts", minimum=0, below=1
        ),
        "HARD_NEGATIVE": Key(True, "hinge: the hardest negative of the batch alone, not the sum of all"),
        "SUM_EPOCHS": Key(
            0, "hinge with HARD_NEGATIVE: epochs on the sum before the hardest negative", minimum=0
        ),
        "TEMPERATURE": Key(0.07, "contrastive: initial temperature", above=0),
        "MASK_DUPLICATES": Key(
            True,
            "pairs of the same image, or of the same sentence, are not negatives of each other; "
            "false restores the originals",
        ),
        "CROSS_RANK_NEGATIVES": Key(
            True,
            "several processes: a pair competes with those of all, as in one process with the whole batch; "
            "false: with those of its own",
        ),
        "QUEUE_SIZE": Key(
            0,
            "hinge and contrastive: pairs of past batches, as they were embedded then, that are negatives "
            "too: for small batches (XBM); 0: none",
            minimum=0,
        ),
        "QUEUE_START": Key(
            1000, "batches before the queue is filled, while embeddings still move fast", minimum=0
        ),
        "WORD_WEIGHT": Key(
            0.0,
            "oscar: weight of the loss of guessing hidden words of a caption, in a second copy of each "
            "right pair; the original was pretrained by it; 0: none",
            minimum=0,
        ),
        "WORD_SHARE": Key(
            0.15, "oscar with WORD_WEIGHT: share of a caption's tokens that is hidden", above=0, below=1
        ),
        "CAPTION_WEIGHT": Key(
            1.0, "vsrn: weight of the caption decoder's loss; 0: train no decoder", minimum=0
        ),
        "COLLAPSE_STEPS": Key(
            300,
            "steps that hardest-negative training may sit at 2 x batch x margin with all embeddings "
            "alike before it counts as collapsed; 0: no guard",
            minimum=0,
        ),
        "ON_COLLAPSE": Key(
            "warn",
            "warn: say so; stop: end the run, exit 1; fallback: train on the sum of negatives for one "
            "more epoch",
            choices=("warn", "stop", "fallback"),
        ),
    },
    "OPTIMIZATION": {
        "OPTIMIZER": Key(
            "adam",
            "optimizer; bert_adamw: AdamW with epsilon outside the bias correction, as Oscar and VinVL had "
            "it",
            choices=("adam", "adamw", "bert_adamw", "sgd", "momentum"),
        ),
        "LR": Key(2e-4, "base learning rate", above=0),
        "EPSILON": Key(1e-8, "epsilon of Adam and AdamW", above=0),
        "BETAS": Key(
            [0.9, 0.999], "moment decay of Adam and AdamW", element=float, minimum=0, below=1, length=2
        ),
        "MOMENTUM": Key(0.9, "momentum of the momentum optimizer", minimum=0, below=1),
        "WEIGHT_DECAY": Key(
            0.0,
            "decay, decoupled with adamw and bert_adamw and as an l2 penalty otherwise; never on bias, "
            "normalisation or temperature",
            minimum=0,
        ),
        "IMAGE_LR_SCALE": Key(1.0, "multiplier of the rate for the image encoder", minimum=0),
        "TEXT_LR_SCALE": Key(1.0, "multiplier of the rate for the text encoder", minimum=0),
        "CNN_LR_SCALE": Key(
            1.0, "multiplier of the rate for the CNN, times IMAGE_LR_SCALE where that holds too", minimum=0
        ),
        "SAMPLES_PER_CLASS": Key(
            0,
            "cnn: images of a class in a batch of BATCH_SIZE; 0: random images. Triplets are always anchor, "
            "positive, negative",
            minimum=0,
        ),
        "BATCH_SIZE": Key(
            128,
            "pairs per step and process; oscar: right pairs, each with a wrong one beside it; cnn: images",
            minimum=2,
        ),
        "BATCHING": Key(
            "bucket",
            "random: as drawn; bucket: random, grouped by length so that little padding is computed; "
            "same_length: captions of one length a batch (VSE)",
            choices=("random", "bucket", "same_length"),
        ),
        "CAPTIONS_TOGETHER": Key(
            1,
            "captions of an image that are drawn into a batch together, but for same_length; a region model "
            "then reads and encodes the image once for them",
            minimum=1,
        ),
        "IMAGES_TOGETHER": Key(
            1,
            "images in a row of the split that are drawn into a batch together, but for same_length; where "
            "neighbours differ little, as Scenes' families or the frames of a film, each is a hard negative",
            minimum=1,
        ),
        "GRADIENT_ACCUMULATION_STEPS": Key(1, "batches per optimizer step", minimum=1),
        "EPOCHS": Key(30, "passes over the training captions", minimum=1),
        "LR_SCHEDULER": Key(
            "step",
            "shape of the rate over training",
            choices=("constant", "step", "multistep", "linear", "cosine", "polynomial"),
        ),
        "LR_STEP_EPOCHS": Key(15.0, "step: epochs between two drops", above=0),
        "LR_MILESTONES": Key(
            [], "multistep: epochs of the drops, as numbers of epochs", element=float, minimum=0
        ),
        "LR_GAMMA": Key(0.1, "step and multistep: factor of a drop", above=0),
        "LR_POWER": Key(1.0, "polynomial: exponent", above=0),
        "LR_END_FACTOR": Key(
            0.0, "linear, cosine and polynomial: last rate as a fraction of LR", minimum=0, maximum=1
        ),
        "LR_UPDATE": Key("step", "the rate changes every step or every epoch", choices=("step", "epoch")),
        "WARMUP_STEPS": Key(0, "steps in which the rate rises linearly from 0 to its schedule", minimum=0),
        "WARMUP_EPOCHS": Key(0.0, "the same in epochs; the longer of the two counts", minimum=0),
        "CLIP": Key(
            "norm",
            "gradient clipping: by global norm, by value, or none",
            choices=("norm", "value", "none"),
        ),
        "CLIP_MAX_NORM": Key(2.0, "bound of the gradient's global norm, or of each value", above=0),
        "EMA_DECAY": Key(
            0.0,
            "decay per step of an exponential moving average of the weights, which is then what is "
            "evaluated and saved as the model; 0: none",
            minimum=0,
            below=1,
        ),
        "EARLY_STOPPING": Key(
            0, "validations without a better score before training ends; 0: never", minimum=0
        ),
    },
    "NEGATIVES": {
        "KIND": Key(
            "random",
            "oscar: where the wrong caption or image of a pair comes from; random: anywhere, as the "
            "original; mined: the dual encoder at DUAL takes it for right; neighbours: images in a row of "
            "the split; batch: of the batch, what the model itself scores highest",
            choices=("random", "mined", "neighbours", "batch"),
        ),
        "COUNT": Key(
            1,
            "oscar: wrong pairs beside each right one: all its captions or all its images are wrong",
            minimum=1,
        ),
        "SHARE": Key(
            1.0, "share of the wrong pairs that are of KIND; the others are random", minimum=0, maximum=1
        ),
        "DUAL": Key(
            "", "mined: checkpoint folder of a dual encoder, such as out/scenes_vsepp/best, with its run"
        ),
        "RANDOM_EPOCHS": Key(
            0, "epochs on random wrong pairs before those of KIND, which teach little at first", minimum=0
        ),
        "TOP": Key(20, "mined: highest-scoring captions of an image, and images of a caption", minimum=1),
        "NEIGHBOURS": Key(4, "neighbours: images in a row of the split that belong together", minimum=2),
    },
    "MONITOR": {
        "PRINT_STEP": Key(10, "steps between two log lines", minimum=1),
        "EVAL_FREQ": Key(1, "epochs between two validations; 0: none by epochs", minimum=0),
        "EVAL_STEP": Key(0, "steps between two validations; 0: none by steps", minimum=0),
        "DEV_IMAGES": Key(
            0, "oscar: first images of dev that validations measure, with their captions; 0: all", minimum=0
        ),
        "BEST_METRIC": Key(
            "rsum",
            "metric of the dev split that chooses the best checkpoint; r1, map_at_r, r_precision: cnn",
            choices=("rsum", "mean_recall", "r1", "map_at_r", "r_precision"),
        ),
        "VISUALDL": Key(True, "write VisualDL curves into the run folder"),
    },
    "OUTPUT": {
        "CHECKPOINT_DIR": Key("out", "folder of all runs"),
        "SAVE_NAME": Key("run", "name of this run: its folder inside CHECKPOINT_DIR"),
        "SAVE_FREQ": Key(
            0, "epochs between two kept checkpoints epoch_N/; 0: best/ and last/ only", minimum=0
        ),
        "KEEP_MAX": Key(3, "newest epoch_N/ checkpoints to keep", minimum=1),
        "SAVE_STEP": Key(0, "steps between two writes of last/ within an epoch; 0: none", minimum=0),
        "NUM_LABELS": Key(
            2, "oscar: values of the classifier; 2: no match and match; 1: one value", minimum=1, maximum=2
        ),
    },
    "PRETRAINED": {
        "DIR": Key(
            "",
            "checkpoint folder whose model weights training starts from; for oscar also the folder of a BERT "
            "or an Oscar (docs/pretrained.md)",
        ),
        "RESUME": Key(False, "go on from the run's last/ checkpoint (the same as --resume)"),
    },
    "EVAL": {
        "CHECKPOINT_DIR": Key("", "checkpoint folder to evaluate; empty: the run's best/"),
        "SPLIT": Key("test", "which of DATASET's splits to evaluate", choices=("train", "dev", "test")),
        "GALLERY": Key(
            "",
            "cnn: name of a split that SPLIT's pictures are searched in; empty: in each other, where none "
            "finds itself",
        ),
        "FOLDS": Key(
            1, "slices of the images to evaluate apart and average; 5: the COCO 1K protocol", minimum=1
        ),
        "TIE_RULE": Key(
            "against",
            "how an irrelevant item that scores the same as the best relevant one counts; against: "
            "before it, favour: behind it, average: half",
            choices=("against", "favour", "average"),
        ),
        "BATCH_SIZE": Key(
            1024,
            "images or captions per encoding step; a CNN takes memory for all of them at once",
            minimum=1,
        ),
        "BLOCK_SIZE": Key(1024, "images per block of scores", minimum=1),
        "BATCH_TOKENS": Key(
            8192, "oscar: tokens and regions per scoring step, all its pairs together", minimum=1
        ),
        "BLOCK_PAIRS": Key(
            4096,
            "oscar: pairs whose scores are written at a time; a killed evaluation goes on behind them",
            minimum=1,
        ),
        "RERANK_DIR": Key(
            "",
            "checkpoint folder of an oscar run, such as out/scenes_oscar/best, which puts the short lists of "
            "a dual encoder in order; empty: no re-ranking (docs/reranking.md)",
        ),
        "RERANK_K": Key(20, "length of the short lists, in both directions", minimum=1),
        "RERANK_DUAL_WEIGHT": Key(
            0.0,
            "weight of the dual encoder's similarity beside oscar's score in the order of a short list",
            minimum=0,
        ),
        "EVAL_CROSS_IMAGE": Key(
            True,
            "oscar: score every image with every caption; false: the candidates of EVAL_CAPTION_INDEX_FILE",
        ),
        "EVAL_CAPTION_INDEX_FILE": Key(
            "",
            "oscar: candidate captions of each image, JSON relative to DATA_DIR; {split} in it stands for "
            "the split's name (docs/data.md)",
        ),
        "EVAL_IMG_KEYS_FILE": Key(
            "",
            "vinvl: images to evaluate, an image key a line, relative to DATA_DIR; {split} in it stands for "
            "the split's name; empty: all of the caption file",
        ),
    },
    "RUNTIME": {
        "DEVICE": Key("auto", "auto: the GPU where there is one", choices=("auto", "cpu", "gpu")),
        "THREADS": Key(
            0, "CPU threads of one process; 0: all cores, shared among local processes", minimum=0
        ),
        "DETERMINISTIC": Key(True, "deterministic GPU kernels (CPU training always is)"),
        "AMP": Key(
            "off",
            "automatic mixed precision on the GPU; it has no effect on the CPU",
            choices=("off", "float16", "bfloat16"),
        ),
    },
    "MISC": {
        "SEED": Key(123, "seed of the weights, the sample order and everything else random", minimum=0),
        "NUM_WORKERS": Key(
            0, "threads that prepare batches ahead of training; 0: in the training thread", minimum=0
        ),
    },
}


def default_config() -> CfgNode:
    """Return a fresh, unfrozen configuration that holds every default."""
    config = CfgNode()
    for section, keys in KEYS.items():
        config[section] = CfgNode()
        for name, key in keys.items():
            config[section][name] = list(key.default) if isinstance(key.default, list) else key.default
    return config
