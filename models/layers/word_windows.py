"""Windows of words on the CPU: a window adds up what each of its words contributes at its place.

A convolution maps a window of w word vectors, side by side, to relu(W x + b). Its product with W is a sum of
w products, of each word with the part of W for its place. A batch has many windows and few distinct words, so
each distinct word is multiplied once with each part, and a window adds up w rows of the results. For 320
captions of Scenes (3,800 windows of 7 words, 100 distinct words) this leaves a thirtieth of the products.
"""

from dataclasses import dataclass

import numpy as np
import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from config.machine.threads import for_each
from models.kernels.mkl import multiply_on_one_thread
from models.kernels.row_blocks import array_of, for_each_block
from models.layers.fused import unless_frozen


@dataclass(frozen=True)
class WordWindows:
    """The N windows of a batch of B captions: each caption has a window around each of its words.

    `words` [U] are the distinct token ids. `places` [w,N] are the words of the windows, as indices in
    `words`; U stands for a place outside of the caption. Caption b has the windows `ends[b]` to `ends[b + 1]`
    (`ends` [B+1]).
    """

    words: np.ndarray
    places: np.ndarray
    ends: np.ndarray

    @staticmethod
    def of(token_ids: np.ndarray, text_len: np.ndarray, window: int) -> "WordWindows":
        """Return the windows of `window` words of `token_ids` [B,T], captions of `text_len` [B] tokens."""
        width, reach = token_ids.shape[1], window // 2
        real = np.arange(width) < text_len[:, None]  # [B,T]
        words, numbers = np.unique(token_ids[real], return_inverse=True)
        padded = np.full((len(token_ids), width + 2 * reach), len(words))
        padded[:, reach : reach + width][real] = numbers.reshape(-1)
        places = np.stack([padded[:, place : place + width][real] for place in range(window)])
        return WordWindows(words, places, np.concatenate([[0], np.cumsum(text_len)]))


def mean_of_windows(vectors: Tensor, weight: Tensor, bias: Tensor, windows: WordWindows) -> Tensor:
    """Return the mean [B,D] over each caption's windows of relu(W x + b), x the window's word vectors.

    `vectors` [U,E] are those of `windows.words`, `weight` is [w*E,D], and `bias` [D]. The vector of a place
    outside of the caption is 0.
    """
    return _MeanOfWindows.apply(vectors, weight, bias, windows, paddle.is_grad_enabled())


class _MeanOfWindows(PyLayer):
    @staticmethod
    def forward(ctx, vectors, weight, bias, windows, keeps):
        inputs = vectors, weight, bias
        ctx.frozen = tuple(tensor.stop_gradient for tensor in inputs)
        vectors, weight, bias = map(array_of, inputs)
        places, ends = windows.places, windows.ends
        parts = weight.reshape(len(places), vectors.shape[1], -1)  # [w,E,D]
        contributions = np.zeros((len(places), len(vectors) + 1, len(bias)), weight.dtype)  # [w,U+1,D]
        for part, contribution in zip(parts, contributions, strict=True):
            multiply_on_one_thread(vectors, part, out=contribution[:-1])
        contributions[len(places) // 2] += bias  # the middle of a window is always a word
        active = np.empty((len(places[0]), len(bias)), bool) if keeps else None
        means = np.empty((len(ends) - 1, len(bias)), weight.dtype)

        def work(captions: slice) -> None:
            rows = slice(ends[captions.start], ends[captions.stop])
            sums = contributions[0][places[0, rows]]
            addend = np.empty_like(sums)
            for numbers, contribution in zip(places[1:, rows], contributions[1:], strict=True):
                sums += np.take(contribution, numbers, axis=0, out=addend, mode="clip")
            np.maximum(sums, 0, out=sums)
            if keeps:
                np.greater(sums, 0, out=active[rows])
            for caption in range(captions.start, captions.stop):
                own = slice(ends[caption] - rows.start, ends[caption + 1] - rows.start)
                np.add.reduce(sums[own], axis=0, out=means[caption])
            means[captions] /= np.diff(ends[captions.start : captions.stop + 1])[:, None].astype(means.dtype)

        for_each_block(work, len(means), means[:1].nbytes * len(places[0]) // len(means))
        ctx.saved = vectors, parts, windows, active
        return paddle.from_dlpack(means)

    @staticmethod
    def backward(ctx, d_means):
        vectors, parts, windows, active = ctx.saved
        places, length = windows.places, np.diff(windows.ends)
        d_sums = np.repeat(array_of(d_means) / length[:, None].astype(parts.dtype), length, axis=0)  # [N,D]
        d_sums *= active
        d_contributions = np.zeros((len(places), len(vectors), d_sums.shape[1]), parts.dtype)  # [w,U,D]
        d_parts, d_vectors = np.empty_like(parts), np.empty((len(parts), *vectors.shape), parts.dtype)

        def step_back(place: int) -> None:
            numbers, d_words = places[place], d_contributions[place]
            order = np.argsort(numbers, kind="stable")
            d_ordered, bounds = d_sums[order], np.searchsorted(numbers[order], np.arange(len(d_words) + 1))
            for number, start in enumerate(bounds[:-1]):
                np.add.reduce(d_ordered[start : bounds[number + 1]], axis=0, out=d_words[number])
            multiply_on_one_thread(vectors.T, d_words, out=d_parts[place])
            multiply_on_one_thread(d_words, parts[place].T, out=d_vectors[place])

        for_each(step_back, range(len(places)))
        d_bias = d_contributions[len(places) // 2].sum(axis=0)
        return unless_frozen(ctx.frozen, d_vectors.sum(axis=0), d_parts.reshape(-1, d_parts.shape[2]), d_bias)
