import numpy as np
import paddle
import pytest

from models.encoders import WindowTextEncoder
from models.layers.word_windows import WordWindows
from tests.closeness import assert_close, largest

# Captions shorter than the window, with a word at several of its places, and one that comes twice.
CAPTIONS = np.array([[3, 5, 3, 3, 7, 9], [4, 5, 0, 0, 0, 0], [7, 0, 0, 0, 0, 0], [3, 5, 3, 3, 7, 9]])
LENGTH = np.array([6, 2, 1, 6])
WINDOW, WORD_DIM, DIM = 5, 6, 8


def test_windows_hold_the_words_around_each():
    windows = WordWindows.of(CAPTIONS, LENGTH, 3)
    assert windows.words.tolist() == [3, 4, 5, 7, 9]
    assert windows.ends.tolist() == [0, 6, 8, 9, 15]
    spelled = np.append(windows.words, 0)[windows.places].T.tolist()  # 0: outside of the caption
    long = [[0, 3, 5], [3, 5, 3], [5, 3, 3], [3, 3, 7], [3, 7, 9], [7, 9, 0]]
    assert spelled == [*long, [0, 4, 5], [4, 5, 0], [0, 7, 0], *long]


@pytest.mark.usefixtures("with_and_without_mkl")
@pytest.mark.parametrize("frozen", [(), ("embed.weight",), ("windows.weight", "windows.bias")], ids=str)
def test_words_multiplied_once_have_the_gradients_of_the_convolution(frozen, monkeypatch):
    slope = paddle.to_tensor(np.random.default_rng(1).standard_normal((4, DIM)).astype(np.float32))
    found = []
    for by_word in (True, False):
        monkeypatch.setattr("models.encoders.uses_cpu_kernels", lambda tensor, by_word=by_word: by_word)
        paddle.seed(0)
        encoder = WindowTextEncoder(vocab_size=12, word_dim=WORD_DIM, embed_dim=DIM, window=WINDOW)
        for name, parameter in encoder.named_parameters():
            parameter.stop_gradient = name in frozen
        embedding = encoder(paddle.to_tensor(CAPTIONS), paddle.to_tensor(LENGTH))
        (embedding * slope).sum().backward()
        gradients = {name: value.grad for name, value in encoder.named_parameters()}
        assert {name for name, grad in gradients.items() if grad is None} == set(frozen)
        found.append([embedding.numpy(), *(grad.numpy() for grad in gradients.values() if grad is not None)])
    # Forward and back: a window's products, its sum, the mean over windows, the map, and the l2 norm.
    roundings = 2 * (WINDOW * WORD_DIM + WINDOW + LENGTH.max() + 2 * DIM + 6) + LENGTH.sum()
    for ours, paddles in zip(*found, strict=True):
        assert np.abs(ours).max() > 1e-3
        assert_close(ours, paddles, int(roundings), largest(found[1]))
