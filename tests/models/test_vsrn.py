import numpy as np
import paddle
import pytest

from models.captioner import END, PAD, START, Captioner
from models.encoders import GRUTextEncoder, l2norm
from models.losses.ranking import CaptionedLoss, HingeLoss, caption_loss
from models.vsrn import VSRN, GraphBlock, RegionEncoder, RegionLayout
from tests.closeness import assert_close, largest

FEATURES, DIM, VOCABULARY = 6, 16, 11
ROUNDINGS = 4 * DIM + 5 + 20  # of a block: map, affinity, map, sum over 5 regions and norm
OF_THE_GRU = 9 * (2 * DIM + 12)  # as many steps as there are regions or words


def awake(encoder):
    """Give every block's normalisation a scale: it starts at 0, where a block is the identity."""
    for block in encoder.blocks:
        block.norm.weight.set_value(paddle.rand([DIM]) + 0.5)
        block.norm.bias.set_value(paddle.rand([DIM]))
    return encoder


def model_of(**options):
    paddle.seed(0)
    encoder = awake(RegionEncoder(FEATURES, DIM, num_blocks=2, **options))
    captioner = Captioner(DIM, VOCABULARY, word_dim=5, hidden_dim=7, max_len=9, dropout=0.0)
    return VSRN(encoder, GRUTextEncoder(VOCABULARY, 5, DIM), captioner=captioner)


def batch_of(images=4, regions=5, seed=0):
    random = np.random.default_rng(seed)
    lengths = random.integers(3, 9, images)
    tokens = np.full((images, lengths.max()), PAD)
    for row, length in zip(tokens, lengths, strict=True):
        row[:length] = [START, *random.integers(4, VOCABULARY, length - 2), END]
    arrays = {
        "regions": random.standard_normal((images, regions, FEATURES)).astype(np.float32),
        "num_regions": np.full(images, regions),
        "token_ids": tokens,
        "text_len": lengths,
        "image_id": np.arange(images),
        "sentence_id": np.arange(images),
    }
    return {name: paddle.to_tensor(array) for name, array in arrays.items()}


def test_outputs_have_their_shapes():
    model, batch = model_of(), batch_of()
    outputs = model(batch)
    assert outputs["image"].shape == outputs["text"].shape == [4, DIM]
    assert outputs["scores"].shape == [4, 4]
    words = int(batch["text_len"].sum())  # every token but <start>, and the padding after <end>
    assert outputs["word_logits"].shape == [words, VOCABULARY]
    assert outputs["words"].shape == [words]
    model.eval()
    assert model(batch).keys() == {"image", "text", "scores"}
    assert [
        affinity.shape for affinity in model.image_encoder.affinities(batch["regions"], batch["num_regions"])
    ]
    assert model.write_captions(batch, max_len=9).shape[0] == 4


def test_a_block_is_eq_2_to_4_of_the_paper():
    paddle.seed(1)
    block = GraphBlock(DIM)
    block.norm.weight.set_value(paddle.rand([DIM]))
    regions = paddle.randn([3 * 5, DIM])
    num_regions = paddle.full([3], 5, dtype="int64")
    after, affinity = block(regions, RegionLayout.of(regions.reshape([3, 5, DIM]), num_regions))
    v = regions.numpy().astype(float).reshape(3, 5, DIM)
    parts = {name: getattr(block, name) for name in ("theta", "phi", "g", "out")}
    weights = {name: part.weight.numpy().astype(float) for name, part in parts.items()}
    biases = {name: part.bias.numpy().astype(float) for name, part in parts.items()}
    messages = np.zeros_like(v)
    for image in range(3):
        mapped = {name: v[image] @ weights[name] + biases[name] for name in ("theta", "phi", "g")}
        size = largest([mapped["theta"]]) * largest([mapped["phi"]]) * DIM / 5
        for listener in range(5):
            heard = np.zeros(DIM)
            for speaker in range(5):
                share = mapped["theta"][listener] @ mapped["phi"][speaker] / 5
                assert_close(affinity[image, listener, speaker].numpy(), share, 3 * DIM, size)
                heard += share * mapped["g"][speaker]
            messages[image, listener] = heard @ weights["out"] + biases["out"]
    messages = messages.reshape(-1, DIM)
    normalised = (messages - messages.mean(axis=0)) / np.sqrt(messages.var(axis=0) + 1e-5)
    expected = regions.numpy() + normalised * block.norm.weight.numpy()
    # The norm divides what its input is off by: messages shrink on their way, their deviation is below 1.
    scale = largest([messages]) / messages.std(axis=0).min() + largest([expected])
    assert_close(after.numpy(), expected, ROUNDINGS, scale)


def test_taking_the_products_of_weights_first_changes_nothing():
    """With fewer regions than dimensions a block multiplies step by step, with more the weights first."""
    paddle.seed(2)
    block = GraphBlock(DIM)
    block.norm.weight.set_value(paddle.rand([DIM]))
    block.eval()  # or the statistics of the batch would differ
    found = []
    for images in (2, 8):  # 10 and 40 regions of 16 dimensions
        paddle.seed(3)
        regions = paddle.randn([40, DIM])[: images * 5]
        layout = RegionLayout.of(regions.reshape([images, 5, DIM]), paddle.full([images], 5, dtype="int64"))
        block.clear_gradients()
        after, affinity = block(regions, layout)
        (after[:10] ** 2).sum().backward()
        gradients = {
            name: weight.grad.numpy() for name, weight in block.named_parameters() if weight.trainable
        }
        found.append((after[:10].numpy(), affinity[:2].numpy(), gradients))
    for stepwise, merged in zip(found[0][:2], found[1][:2], strict=True):
        assert_close(stepwise, merged, ROUNDINGS)
    assert found[0][2].keys() == found[1][2].keys()
    for name, gradient in found[0][2].items():
        assert_close(
            gradient, found[1][2][name], 2 * ROUNDINGS + 10, largest(found[1][2].values()), err_msg=name
        )


@pytest.mark.parametrize("options", [{}, {"norm_regions": False, "batch_norm": True}])
def test_padding_regions_changes_nothing(options):
    model, batch = model_of(**options), batch_of(images=3)
    model.eval()
    counts = [5, 3, 1]
    alone = [
        {"regions": batch["regions"][row : row + 1, :count], "num_regions": paddle.full([1], count, "int64")}
        for row, count in enumerate(counts)
    ]
    together = {"regions": batch["regions"], "num_regions": paddle.to_tensor(counts)}
    embeddings = model.encode_image(together).numpy()
    captions = model.write_captions(together, max_len=9).numpy()
    affinities = model.image_encoder.affinities(together["regions"], together["num_regions"])
    for row, (single, count) in enumerate(zip(alone, counts, strict=True)):
        assert_close(embeddings[row], model.encode_image(single).numpy()[0], 2 * ROUNDINGS + OF_THE_GRU)
        written = model.write_captions(single, max_len=9).numpy()[0]
        np.testing.assert_array_equal(captions[row, : len(written)], written)
        assert not affinities[0][row, :, count:].numpy().any()


def test_statistics_of_a_batch_do_not_count_padding():
    regions = batch_of(images=3)["regions"]
    found = []
    for width in (5, 7):
        model = model_of()
        padded = paddle.concat([regions, paddle.randn([3, width - 5, FEATURES])], axis=1)
        model.image_encoder(padded, paddle.to_tensor([5, 2, 4]))
        found.append([block.norm._variance.numpy() for block in model.image_encoder.blocks])
    for narrow, wide in zip(*found, strict=True):
        assert_close(narrow, wide, 2 * ROUNDINGS)


def test_pairs_that_share_an_image_encode_it_once_with_the_same_result():
    model, batch = model_of(), batch_of(images=4)
    rows = paddle.to_tensor([0, 1, 1, 0])
    shared = {**batch, "regions": batch["regions"][:2], "num_regions": batch["num_regions"][:2]}
    shared["image_row"] = rows
    spelled_out = {**batch, "regions": batch["regions"].gather(rows)}
    outputs, expected = model(shared), model(spelled_out)
    # every image twice: the same statistics, but for the unbiased variance, which evaluation alone uses
    for name in ("image", "text", "scores", "word_logits"):
        assert_close(outputs[name].numpy(), expected[name].numpy(), 2 * ROUNDINGS + 2 * OF_THE_GRU, scale=1.0)


def test_the_decoder_learns_a_long_caption_up_to_its_limit_with_a_forced_end():
    paddle.seed(0)
    decoder = Captioner(DIM, VOCABULARY, word_dim=5, hidden_dim=7, max_len=5)
    tokens = paddle.to_tensor([[START, 4, 5, 6, 7, 8, END], [START, 9, END, PAD, PAD, PAD, PAD]])
    regions, num_regions = paddle.randn([2, 3, DIM]), paddle.to_tensor([3, 3])
    _, words = decoder(regions, num_regions, tokens, paddle.to_tensor([7, 3]))
    # step by step: [4, 9], [5, END], [6, PAD], [END]
    assert words.tolist() == [4, 9, 5, END, 6, PAD, END]


def test_caption_loss_by_plain_loops():
    random = np.random.default_rng(0)
    logits, words = (
        random.standard_normal((5, VOCABULARY)).astype(np.float32),
        random.integers(0, VOCABULARY, 5),
    )
    expected = 0.0
    for row, word in zip(logits.astype(np.float64), words, strict=True):
        expected -= np.log(np.exp(row[word]) / sum(np.exp(value) for value in row)) / 2
    found = caption_loss(paddle.to_tensor(logits), paddle.to_tensor(words), num_captions=2)
    assert_close(found.numpy(), expected, 5 + VOCABULARY + 8)


def test_the_weight_scales_the_caption_loss_alone():
    model, batch = model_of(), batch_of()
    outputs = model(batch)
    hinge = HingeLoss(0.2, hard_negative=True, sum_epochs=0, mask_duplicates=True)
    full, tenth = (CaptionedLoss(hinge, weight)(outputs, batch, epoch=0) for weight in (1.0, 0.1))
    assert float(full["hinge"]) == float(tenth["hinge"])
    assert_close(tenth["caption"].numpy(), 0.1 * float(full["caption"]), 2)


def test_every_parameter_gets_a_gradient():
    model, batch = model_of(), batch_of()
    outputs = model(batch)
    (outputs["scores"].sum() + outputs["word_logits"].square().sum()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.stop_gradient or parameter.grad is not None, name


def test_it_overfits_eight_pairs_and_writes_their_captions():
    model, batch = model_of(), batch_of(images=8)
    loss = CaptionedLoss(HingeLoss(0.2, hard_negative=False, sum_epochs=0, mask_duplicates=True), 1.0)
    optimizer = paddle.optimizer.Adam(0.03, parameters=[p for p in model.parameters() if p.trainable])
    for _ in range(90):
        total = sum(loss(model(batch), batch, epoch=0).values())
        total.backward()
        optimizer.step()
        optimizer.clear_grad()
    scores = model(batch)["scores"].numpy()
    assert (scores.argmax(axis=1) == np.arange(8)).all()
    written = model.write_captions(batch, max_len=9).numpy()  # in training: the statistics of this batch
    tokens, lengths = batch["token_ids"].numpy(), batch["text_len"].tolist()
    right = [
        written[row, : end - 1].tolist() == tokens[row, 1:end].tolist() for row, end in enumerate(lengths)
    ]
    assert all(right)


def test_regions_are_normalised_over_the_regions():
    encoder = model_of().image_encoder
    reasoned, _ = encoder.reason(paddle.randn([2, 5, FEATURES]), paddle.to_tensor([5, 3]))
    assert_close((reasoned**2).sum(axis=1).numpy(), np.ones((2, DIM)), 3 * (5 + 3))
    assert_close(l2norm(reasoned, axis=1).numpy(), reasoned.numpy(), 2 * (5 + 3))


def test_directions_are_added_to_the_state_and_need_the_boxes_alone():
    model, batch = model_of(direction_dim=8), batch_of(regions=3)
    encoder = model.image_encoder
    encoder.eval()
    found = encoder(batch["regions"], batch["num_regions"])
    reasoned, _ = encoder.reason(batch["regions"], batch["num_regions"])
    moved = batch["regions"].clone()
    moved[:, :, -6:-2] = moved[:, ::-1, -6:-2]
    elsewhere = encoder.pool(reasoned, batch["num_regions"], encoder.summarise(moved, batch["num_regions"]))
    assert float((found - elsewhere).abs().max()) > 1e-3
    encoder.directions = None
    without = encoder(batch["regions"], batch["num_regions"])
    assert float((found - without).abs().max()) > 1e-3
