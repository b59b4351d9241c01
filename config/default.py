"""Every configuration key: its default, its meaning, its unit and its choices.

A task file (YAML) overrides these defaults, and `KEY=VALUE` on the command line overrides the file.
`config/load.py` merges them and checks every value against its `Key`.
"""

from dataclasses import dataclass

from yacs.config import CfgNode

from config.cnns import CNN_NAMES
from config.families import FAMILIES, LOSSES, describe_losses

Scalar = bool | int | float | str

PATH_RULE = """\
Paths: a relative path counts from the working folder, in a task file as on the command line. A file of the
data set ("in DATA_DIR first" in --help-config) is sought in DATASET.DATA_DIR first. The config.yaml of a run
keeps whole paths, so a run works from every folder, and after it was moved, alone or with its data; so does
the task.yaml of tools/prepare_data.py. A path that begins with ~/ is in the home folder.
"""


@dataclass(frozen=True)
class Key:
    """One configuration key.

    The type of `default` is the type of the key (an int is accepted where a float is expected). `choices`,
    `minimum`, `above` (an exclusive minimum), `maximum` and `below` (an exclusive maximum) bound the value
    or, for a list, each element. `element` is the type of a list's elements, and `length` is their number if
    it is fixed. `path` tells where a key that is a path counts from (PATH_RULE): "working folder" or
    "DATA_DIR", which is a file of the data set; it is empty for all other keys.
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
    path: str = ""


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
            "VSE++, SCAN and VSRN; whitespace: the tokens of VSE; characters: letters of scripts without "
            "spaces, and words of the others, which training chooses by itself where its captions run words "
            "together",
            choices=("simple", "nltk", "whitespace", "characters"),
        ),
        "VOCAB_FILE": Key(
            "",
            "vocabulary file: JSON, or BERT's vocab.txt for oscar; empty: a vocabulary is built from "
            "VOCAB_SPLITS (oscar: from captions and tags of the training split)",
            path="working folder",
        ),
        "VOCAB_LAYOUT": Key(
            "vsepp",
            "vsepp: <pad> <start> <end> <unk>, words by first sight, captions between <start> and "
            "<end>; vse: <end> <unk>, words by frequency, captions before <end>",
            choices=("vsepp", "vse"),
        ),
        "VOCAB_THRESHOLD": Key(
            4, "a word enters the vocabulary if it occurs at least this many times", minimum=1
        ),
        "VOCAB_SPLITS": Key(
            [],
            "splits whose words build the vocabulary; empty: the training split alone (the originals also "
            "read dev and test, so that words leak)",
            element=str,
        ),
        "MAX_SEQ_LEN": Key(
            0,
            "maximum length of a caption in tokens, start and end included; 0: no limit; oscar: maximum "
            "length of caption and tags together, at least 3",
            minimum=0,
        ),
        "LONG_CAPTIONS": Key(
            "cut",
            "what happens to a training caption longer than MAX_SEQ_LEN; evaluation always cuts it",
            choices=("cut", "drop"),
        ),
        "MAX_REGION": Key(
            50, "oscar: maximum number of regions of an image; the first ones are used", minimum=1
        ),
        "ADD_OD_LABEL": Key(True, "oscar: read an image's object tags after the caption"),
        "DO_LOWER_CASE": Key(True, "oscar: lower-case captions and tags and strip their accents"),
        "ATT_MASK_TYPE": Key(
            "CLR",
            "oscar: which of caption (C), tags (L) and regions (R) attend to each other",
            choices=("CLR", "CL", "CR", "LR"),
        ),
        "NUM_CAPTIONS_PER_IMAGE_TRN": Key(
            0, "vinvl: number of captions of an image in training, the first ones; 0: all", minimum=0
        ),
        "NUM_CAPTIONS_PER_IMAGE_DEV": Key(
            0,
            "vinvl: the same in evaluation; with EVAL.EVAL_CAPTION_INDEX_FILE: number of candidates of an "
            "image, while all captions are loaded",
            minimum=0,
        ),
        "CROP_SIZE": Key(224, "side of the square that a CNN sees, in pixels", minimum=32),
        "RESIZE": Key(
            256,
            "evaluation: length in pixels to which a picture's short side is resized before the central "
            "square is cropped",
            minimum=32,
        ),
        "CROP_AREA": Key(
            [0.08, 1.0],
            "training: smallest and largest share of a picture's area that a random crop covers; the crop "
            "is then resized to CROP_SIZE",
            element=float,
            above=0,
            maximum=1,
            length=2,
        ),
        "FLIP": Key(True, "training: mirror half of the pictures left to right, at random"),
        "UNREADABLE": Key(
            "refuse",
            "cnn: what happens to a picture that cannot be read; refuse: stop with an error that names "
            "it; skip: leave it out, and name it at the end",
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
        "DATA_DIR": Key("", "folder that holds SPLIT_ims.npy (and captions and ids)", path="working folder"),
        "FEAT_FILE": Key(
            "",
            "file of features: .npy, .h5, or .tsv of VinVL, bottom-up attention or "
            "LXMERT; {split} stands for the split's name; a name without {split} is one file with the "
            "images of all splits; empty: SPLIT_ims.npy",
            path="DATA_DIR",
        ),
        "CAPTION_FILE": Key("", "caption file of the formats karpathy, csv, json and vinvl", path="DATA_DIR"),
        "TAG_FILE": Key(
            "",
            "oscar: file of the images' tags: a detector's predictions (.tsv) or "
            "one class per image (.txt); {split} in it stands for the split's name; empty: the tags "
            "stored with the features",
            path="DATA_DIR",
        ),
        "IMAGE_DIR": Key(
            "",
            "folder of the pictures, or a zip file of one, for CNNs and for reports; "
            "{split} in it stands for the split's name (CNNs)",
            path="DATA_DIR",
        ),
        "LABEL_FILE": Key(
            "",
            "cnn: list of a split's pictures and their classes, one line `path label` each, or In-Shop's or "
            "Open Metric Learning's list, which names the splits; "
            "{split} in it stands for the split's name; empty: each folder in IMAGE_DIR is a "
            "class",
            path="DATA_DIR",
        ),
        "TRAIN": Key("train", "name of the training split"),
        "DEV": Key("dev", "name of the split that chooses the best checkpoint"),
        "TEST": Key("test", "name of the split that results are reported on"),
        "USE_RESTVAL": Key(False, "karpathy: add the restval split to the training split"),
        "DISTINCT_CAPTIONS": Key(
            False,
            "if an image has the same sentence several times, train on it once per epoch instead of once "
            "per copy",
        ),
        "RELEVANCE": Key(
            "id",
            "which captions are right for which images; id: each for its own image; sentence: equal captions "
            "are one query, right for every image that has it; otherwise a file relative to DATA_DIR, JSON "
            "from image ids to caption ids or CSV with the columns image,caption,grade; {split} stands for "
            "the split's name (docs/evaluation.md)",
        ),
        "RELEVANCE_GRADE": Key(
            0.0, "RELEVANCE in CSV: least grade of a right pair; 0: any above 0", minimum=0
        ),
        "CAPTIONS_PER_IMAGE": Key(
            0,
            "precomp without ids: number of captions per image row, or number of consecutive rows that "
            "repeat one image; 0: inferred from the files",
            minimum=0,
        ),
    },
    "MODEL": {
        "NAME": Key("vsepp", "model family", choices=tuple(FAMILIES)),
        "EMBED_DIM": Key(1024, "width D of the joint embedding", minimum=1),
        "CNN": Key(
            "",
            "network that encodes pictures from IMAGE_DIR (vsepp, vse, cnn); empty: features from a file",
            choices=("", *CNN_NAMES),
        ),
        "CNN_WEIGHTS": Key(
            "",
            "file of the CNN's initial weights, from tools/convert_weights.py, or package:NAME, the weights "
            "in an installed Python package (docs/images.md); empty: random weights",
            path="working folder",
        ),
        "CNN_DIM": Key(
            0,
            "cnn: output width of a linear layer on the network's features; 0: no such layer, the "
            "features are the embedding",
            minimum=0,
        ),
        "CNN_FREEZE_EPOCHS": Key(0, "number of first epochs in which the CNN is frozen; -1: all", minimum=-1),
        "WORD_DIM": Key(300, "width of a word vector", minimum=1),
        "NUM_LAYERS": Key(1, "number of layers of the text GRU (vsepp, vsrn)", minimum=1),
        "BIDIRECTIONAL": Key(False, "bidirectional text GRU whose directions are averaged (vsepp, vsrn)"),
        "TEXT_POOLING": Key(
            "last",
            "how the states of the text's recurrent network are pooled; last: the state at the caption's "
            "end, as in VSE and VSE++; mean, max: over all words",
            choices=("last", "mean", "max"),
        ),
        "TEXT_WINDOW": Key(
            0,
            "vsepp, vsrn: width in words, an odd number, of a convolution that reads the text in place of "
            "the GRU; 0: the GRU, as in the originals",
            minimum=0,
        ),
        "TEXT_DROPOUT": Key(0.0, "dropout rate of the word vectors", minimum=0, maximum=0.9),
        "IMAGE_DROPOUT": Key(0.0, "dropout rate of the image features", minimum=0, maximum=0.9),
        "MEASURE": Key("cosine", "similarity of image and caption", choices=("cosine", "order")),
        "USE_ABS": Key(False, "take absolute values of the embeddings, as order embeddings do"),
        "NO_IMGNORM": Key(False, "do not l2-normalise image embeddings"),
        "GRAPH_BLOCKS": Key(4, "vsrn: number of graph reasoning blocks over an image's regions", minimum=1),
        "DIRECTION_DIM": Key(
            0,
            "vsrn: width of a layer beside the graph in which each region hears what lies to its right, "
            "below, left and above; the last six columns of the features are box terms (x1/W, y1/H, x2/W, "
            "y2/H, width/W, height/H); 0: no such layer, as in the original",
            minimum=0,
        ),
        "NORM_REGIONS": Key(
            True,
            "vsrn: l2-normalise the mapped features over an image's regions, as the released COCO model does",
        ),
        "IMAGE_BATCHNORM": Key(
            False,
            "vsrn: apply batch norm to the last state of the GRU over regions, as the released Flickr30K "
            "model does",
        ),
        "SYNC_BATCHNORM": Key(
            True,
            "several processes: batch norm (vsrn, CNNs) uses the statistics of the global batch, as in "
            "one process with the whole batch; false: of each process's own batch, saving two all-reduces "
            "per layer",
        ),
        "CAPTION_DIM": Key(512, "vsrn: width of the caption decoder", minimum=1),
        "CAPTION_WORD_DIM": Key(300, "vsrn: width of the caption decoder's word vectors", minimum=1),
        "CAPTION_MAX_LEN": Key(
            60,
            "vsrn: maximum length in tokens of a caption that the decoder learns; longer ones are cut",
            minimum=3,
        ),
        "CAPTION_DROPOUT": Key(0.2, "vsrn: dropout rate of the decoder's inputs", minimum=0, maximum=0.9),
        "BERT_DIM": Key(768, "oscar: hidden size of BERT", minimum=1),
        "BERT_LAYERS": Key(12, "oscar: number of layers of BERT", minimum=1),
        "BERT_HEADS": Key(12, "oscar: number of attention heads of a layer; they divide BERT_DIM", minimum=1),
        "BERT_INNER_DIM": Key(3072, "oscar: width of the feed-forward part of a layer", minimum=1),
        "BERT_POSITIONS": Key(
            512,
            "oscar: number of position embeddings, and so the maximum length of a text in tokens",
            minimum=3,
        ),
        "BERT_DROPOUT": Key(0.1, "oscar: dropout rate of the hidden states", minimum=0, maximum=0.9),
        "BERT_ATTENTION_DROPOUT": Key(
            0.1, "oscar: dropout rate of the attention weights", minimum=0, maximum=0.9
        ),
        "BERT_NORM_EPSILON": Key(1e-12, "oscar: epsilon of the layer normalisations", above=0),
        "BERT_DEVIATION": Key(0.02, "oscar: standard deviation of initial weights", above=0),
        "BERT_POSITION_START": Key(
            "random",
            "oscar: initial position embeddings; waves: sines and cosines, from which a small model "
            "learns word order sooner",
            choices=("random", "waves"),
        ),
        "IMG_LAYERNORM": Key(True, "oscar: layer-normalise the mapped regions"),
        "IMG_LAYERNORM_EPSILON": Key(1e-12, "oscar: epsilon of that normalisation", above=0),
        "CLASSIFIER": Key(
            "linear", "oscar: classification head on the pooled vector of a pair", choices=("linear", "mlp")
        ),
        "CLASSIFIER_SCALE": Key(2, "oscar: hidden width of the mlp as a multiple of BERT_DIM", minimum=1),
    },
    "LOSS": {
        "NAME": Key("hinge", describe_losses(), choices=tuple(LOSSES)),
        "MARGIN": Key(
            0.2,
            "margin of the hinge, in units of similarity; metric learning: in squared distances of unit "
            "vectors",
            minimum=0,
        ),
        "SECOND_MARGIN": Key(
            0.1, "quadruplet: margin between a pair of one class and a pair of two other classes", minimum=0
        ),
        "LABEL_SMOOTHING": Key(
            0.1, "softmax: share of the target that is spread evenly over all classes", minimum=0, below=1
        ),
        "HARD_NEGATIVE": Key(
            True, "hinge: use only the hardest negative of the batch; false: sum over all negatives"
        ),
        "SUM_EPOCHS": Key(
            0, "hinge with HARD_NEGATIVE: number of first epochs that sum over all negatives", minimum=0
        ),
        "TEMPERATURE": Key(0.07, "contrastive: initial temperature", above=0),
        "MASK_DUPLICATES": Key(
            True,
            "pairs of the same image, or of the same sentence, are not negatives of each other; false: "
            "they are, as in the original code",
        ),
        "CROSS_RANK_NEGATIVES": Key(
            True,
            "several processes: negatives come from the batches of all processes, as in one process with "
            "the whole batch; false: from each process's own batch",
        ),
        "QUEUE_SIZE": Key(
            0,
            "hinge and contrastive: number of pairs of past batches, with their embeddings of then, that "
            "are additional negatives, for small batches (XBM); 0: none",
            minimum=0,
        ),
        "QUEUE_START": Key(
            1000,
            "number of first batches that do not enter the queue, because embeddings still change fast",
            minimum=0,
        ),
        "WORD_WEIGHT": Key(
            0.0,
            "oscar: weight of the masked-word loss, computed on a second copy of each positive pair; the "
            "original was pretrained with it; 0: none",
            minimum=0,
        ),
        "WORD_SHARE": Key(
            0.15, "oscar with WORD_WEIGHT: share of a caption's tokens that is masked", above=0, below=1
        ),
        "CAPTION_WEIGHT": Key(
            1.0, "vsrn: weight of the caption decoder's loss; 0: train no decoder", minimum=0
        ),
        "COLLAPSE_STEPS": Key(
            300,
            "hardest-negative training counts as collapsed after this many steps with a loss of 2 x batch "
            "x margin and all embeddings alike; 0: no guard",
            minimum=0,
        ),
        "ON_COLLAPSE": Key(
            "warn",
            "warn: print a warning; stop: end the run, exit 1; fallback: train on the sum of negatives "
            "for one more epoch",
            choices=("warn", "stop", "fallback"),
        ),
    },
    "OPTIMIZATION": {
        "OPTIMIZER": Key(
            "adam",
            "optimizer; bert_adamw: AdamW with epsilon outside the bias correction, as in Oscar and VinVL",
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
            "weight decay, decoupled with adamw and bert_adamw, an l2 penalty with other optimizers; "
            "never on biases, normalisations or the temperature",
            minimum=0,
        ),
        "IMAGE_LR_SCALE": Key(1.0, "factor of the learning rate for the image encoder", minimum=0),
        "TEXT_LR_SCALE": Key(1.0, "factor of the learning rate for the text encoder", minimum=0),
        "CNN_LR_SCALE": Key(
            1.0,
            "factor of the learning rate for the CNN; in an image encoder, IMAGE_LR_SCALE applies too",
            minimum=0,
        ),
        "SAMPLES_PER_CLASS": Key(
            0,
            "cnn: images per class in a batch of BATCH_SIZE; 0: random images; triplet ignores it: its "
            "batches are anchor, positive, negative",
            minimum=0,
        ),
        "BATCH_SIZE": Key(
            128,
            "mini-batch size per process: pairs; oscar: positive pairs, each with its negative pairs; "
            "cnn: images",
            minimum=2,
        ),
        "BATCHING": Key(
            "bucket",
            "random: shuffled; bucket: shuffled, with captions of similar length together to save "
            "padding; same_length: each batch has captions of one length (VSE)",
            choices=("random", "bucket", "same_length"),
        ),
        "CAPTIONS_TOGETHER": Key(
            1,
            "number of captions of an image that are drawn into a batch together, not with same_length; a "
            "region model then reads and encodes the image once for all of them",
            minimum=1,
        ),
        "IMAGES_TOGETHER": Key(
            1,
            "number of consecutive images of the split that are drawn into a batch together, not with "
            "same_length; where neighbours differ little, as in Scenes' families or the frames of a film, "
            "they are hard negatives of each other",
            minimum=1,
        ),
        "GRADIENT_ACCUMULATION_STEPS": Key(1, "batches per optimizer step", minimum=1),
        "EPOCHS": Key(30, "passes over the training captions", minimum=1),
        "LR_SCHEDULER": Key(
            "step",
            "learning-rate schedule",
            choices=("constant", "step", "multistep", "linear", "cosine", "polynomial"),
        ),
        "LR_STEP_EPOCHS": Key(15.0, "step: epochs between two drops of the rate", above=0),
        "LR_MILESTONES": Key(
            [], "multistep: epochs at which the rate drops, ascending", element=float, minimum=0
        ),
        "LR_GAMMA": Key(0.1, "step and multistep: factor of each drop", above=0),
        "LR_POWER": Key(1.0, "polynomial: exponent", above=0),
        "LR_END_FACTOR": Key(
            0.0, "linear, cosine and polynomial: last rate as a fraction of LR", minimum=0, maximum=1
        ),
        "LR_UPDATE": Key(
            "step", "whether the rate changes at every step or at every epoch", choices=("step", "epoch")
        ),
        "WARMUP_STEPS": Key(0, "steps of a linear warm-up from 0 to the scheduled rate", minimum=0),
        "WARMUP_EPOCHS": Key(0.0, "length of the warm-up in epochs; the longer of the two counts", minimum=0),
        "CLIP": Key(
            "norm",
            "gradient clipping: by global norm, by value, or none",
            choices=("norm", "value", "none"),
        ),
        "CLIP_MAX_NORM": Key(2.0, "bound of the gradient's global norm, or of each value", above=0),
        "EMA_DECAY": Key(
            0.0,
            "decay per step of an exponential moving average of the weights; the average is evaluated and "
            "saved as the model; 0: no average",
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
            "oscar: where the negative caption or image of a pair comes from; random: any other, as in "
            "the original; mined: the short lists of the dual encoder at DUAL; neighbours: images that "
            "follow each other in the split; batch: the one in the batch that the model itself scores "
            "highest",
            choices=("random", "mined", "neighbours", "batch"),
        ),
        "COUNT": Key(
            1,
            "oscar: negative pairs per positive pair; their captions are all wrong, or their images are",
            minimum=1,
        ),
        "SHARE": Key(
            1.0, "share of the negative pairs that are of KIND; the others are random", minimum=0, maximum=1
        ),
        "DUAL": Key(
            "",
            "mined: checkpoint folder, inside its run, of a dual encoder, such as out/scenes_vsepp/best",
            path="working folder",
        ),
        "RANDOM_EPOCHS": Key(
            0, "number of first epochs with random negatives; those of KIND teach little at first", minimum=0
        ),
        "TOP": Key(
            20,
            "mined: length of the short lists, of captions for an image and of images for a caption",
            minimum=1,
        ),
        "NEIGHBOURS": Key(
            4, "neighbours: number of consecutive images of the split that form a group", minimum=2
        ),
    },
    "MONITOR": {
        "PRINT_STEP": Key(10, "steps between two log lines", minimum=1),
        "EVAL_FREQ": Key(1, "epochs between two validations; 0: none by epochs", minimum=0),
        "EVAL_STEP": Key(0, "steps between two validations; 0: none by steps", minimum=0),
        "DEV_IMAGES": Key(
            0,
            "oscar: number of dev images, the first ones, that validation measures, with their captions; "
            "0: all",
            minimum=0,
        ),
        "BEST_METRIC": Key(
            "rsum",
            "metric of the dev split that chooses the best checkpoint; r1, map_at_r, r_precision: cnn",
            choices=("rsum", "mean_recall", "r1", "map_at_r", "r_precision"),
        ),
        "VISUALDL": Key(True, "write VisualDL curves into the run folder"),
    },
    "OUTPUT": {
        "CHECKPOINT_DIR": Key("out", "folder of all runs", path="working folder"),
        "SAVE_NAME": Key("run", "name of this run: its folder inside CHECKPOINT_DIR"),
        "SAVE_FREQ": Key(
            0, "epochs between two kept checkpoints epoch_N/; 0: best/ and last/ only", minimum=0
        ),
        "KEEP_MAX": Key(3, "newest epoch_N/ checkpoints to keep", minimum=1),
        "SAVE_STEP": Key(0, "steps between two writes of last/ within an epoch; 0: none", minimum=0),
        "NUM_LABELS": Key(
            2, "oscar: number of logits; 2: no match and match; 1: one score", minimum=1, maximum=2
        ),
    },
    "PRETRAINED": {
        "DIR": Key(
            "",
            "checkpoint folder whose model weights training starts from; for oscar also the folder of a "
            "BERT or an Oscar (docs/pretrained.md)",
            path="working folder",
        ),
        "RESUME": Key(False, "resume from the run's last/ checkpoint (the same as --resume)"),
    },
    "EVAL": {
        "CHECKPOINT_DIR": Key(
            "", "checkpoint folder to evaluate; empty: the run's best/", path="working folder"
        ),
        "SPLIT": Key("test", "which of DATASET's splits to evaluate", choices=("train", "dev", "test")),
        "GALLERY": Key(
            "",
            "cnn: name of the split in which SPLIT's pictures are searched; empty: SPLIT itself; no picture "
            "finds itself, or a copy of itself",
        ),
        "FOLDS": Key(
            1,
            "number of slices of the images that are evaluated separately and averaged; 5: the COCO 1K "
            "protocol",
            minimum=1,
        ),
        "TIE_RULE": Key(
            "against",
            "how an irrelevant item with the same score as the best relevant one counts; against: ranked "
            "before it, favour: ranked behind it, average: half",
            choices=("against", "favour", "average"),
        ),
        "RESAMPLES": Key(
            10_000,
            "number of bootstrap resamples over images (cnn: over classes) behind the 95% intervals, drawn "
            "from MISC.SEED; 0: no intervals",
            minimum=0,
        ),
        "LIST_LENGTH": Key(
            20,
            "number of items that lists.npz keeps of what each query found first, for "
            "tools/inspect_results.py and tools/judge_pairs.py; 0: no such file",
            minimum=0,
        ),
        "BATCH_SIZE": Key(
            1024,
            "images or captions per encoding step; a CNN takes memory for all of them at once",
            minimum=1,
        ),
        "BLOCK_SIZE": Key(1024, "images per block of scores", minimum=1),
        "BATCH_TOKENS": Key(
            8192, "oscar: number of tokens and regions of all pairs in a scoring step", minimum=1
        ),
        "BLOCK_PAIRS": Key(
            4096,
            "oscar: number of pairs whose scores are written at a time; a killed evaluation resumes "
            "behind them",
            minimum=1,
        ),
        "QUERY_BANK": Key(
            "",
            "dual encoders: split whose images and captions normalise the scores (query-bank normalisation, "
            "docs/evaluation.md); empty: none",
            choices=("", "train", "dev"),
        ),
        "QUERY_BANK_TEMPERATURE": Key(
            0.07, "temperature of EVAL.QUERY_BANK's softmax, chosen on dev", above=0
        ),
        "RERANK_DIR": Key(
            "",
            "checkpoint folder of an oscar run, such as out/scenes_oscar/best, that re-ranks the short "
            "lists of a dual encoder; empty: no re-ranking (docs/reranking.md)",
            path="working folder",
        ),
        "RERANK_K": Key(20, "length of the short lists, in both directions", minimum=1),
        "RERANK_DUAL_WEIGHT": Key(
            0.0,
            "weight of the dual encoder's similarity, added to oscar's score, in the order of a short list",
            minimum=0,
        ),
        "EVAL_CROSS_IMAGE": Key(
            True,
            "oscar: score every image with every caption; false: the candidates of EVAL_CAPTION_INDEX_FILE",
        ),
        "EVAL_CAPTION_INDEX_FILE": Key(
            "",
            "oscar: candidate captions of each image, JSON; {split} in it stands for "
            "the split's name (docs/data.md)",
            path="DATA_DIR",
        ),
        "EVAL_IMG_KEYS_FILE": Key(
            "",
            "vinvl: images to evaluate, one image key per line; {split} in it "
            "stands for the split's name; empty: all images of the caption file",
            path="DATA_DIR",
        ),
    },
    "RUNTIME": {
        "DEVICE": Key("auto", "auto: the GPU where there is one", choices=("auto", "cpu", "gpu")),
        "THREADS": Key(
            0, "CPU threads of one process; 0: all cores, shared among local processes", minimum=0
        ),
        "DETERMINISTIC": Key(True, "deterministic GPU kernels (CPU training always is)"),
        "PRODUCTS": Key(
            "auto",
            "library that multiplies matrices on the CPU; auto: the fastest, measured once for a machine; "
            "mkl and onednn come with Paddle's builds for x86-64",
            choices=("auto", "mkl", "onednn", "numpy"),
        ),
        "PRECISION": Key(
            "float32",
            "what layers multiply on the CPU to encode and score: bfloat16 rounds weights and inputs and "
            "adds up in float32 (docs/precision.md); auto: bfloat16 where the processor multiplies it "
            "faster than float32",
            choices=("float32", "bfloat16", "auto"),
        ),
        "AMP": Key(
            "off",
            "mixed precision in training: on the GPU that of Paddle; on the CPU, bfloat16 multiplies rounded "
            "weights and inputs in the layers, and float16 has no effect",
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
