"""VSRN's caption decoder, which generates an image's caption from the regions (S2VT with attention)."""

from itertools import pairwise

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.nn import functional

from models.encoders import recurrent_states
from models.kernels.row_blocks import uses_cpu_kernels
from models.layers.additive_attention import additive_attention
from models.layers.attentive_decoder import attentive_states
from models.layers.lowered import Linear

PAD, START, END = 0, 1, 2  # their ids in the vocabulary layout vsepp


class Captioner(nn.Layer):
    """Decode a caption word by word with attention to the image's regions (arXiv 1909.02701, eq. 8).

    The regions [R,D] pass a linear map and a GRU, whose last state is the decoder's first state. At each
    step, the weight of region r is softmax_r(w^T tanh(W [m_r; h])), with m_r the GRU's state at region r and
    h the decoder's state. The decoder, a GRU, reads the previous word and the weighted sum of all m_r. The
    part of W that multiplies m_r is the same at each step, so its product is computed once a batch.

    `max_len` is the maximum number of tokens of a caption, with `<start>` and `<end>`. A longer caption is
    truncated, and its last token replaced by `<end>`.
    """

    def __init__(
        self,
        region_dim: int,
        vocab_size: int,
        word_dim: int = 300,
        hidden_dim: int = 512,
        max_len: int = 60,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.region_map = Linear(region_dim, hidden_dim)
        self.region_rnn = nn.GRU(hidden_dim, hidden_dim)
        self.embed = nn.Embedding(vocab_size, word_dim)
        self.attend_region = Linear(hidden_dim, hidden_dim)
        self.attend_state = nn.Linear(hidden_dim, hidden_dim, bias_attr=False)
        self.attend = nn.Linear(hidden_dim, 1, bias_attr=False)
        self.cell = nn.GRUCell(word_dim + hidden_dim, hidden_dim)
        self.out = Linear(hidden_dim, vocab_size)
        self.dropout = nn.Dropout(dropout)
        self.max_len = max_len

    def forward(
        self,
        regions: Tensor,
        num_regions: Tensor,
        token_ids: Tensor,
        text_len: Tensor,
        image_row: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return logits [W,V] of the next words of all captions, by teacher forcing, and their targets [W].

        `regions` are [I,R,D] with `num_regions` [I], `token_ids` [B,T] with `text_len` [B]. The image of
        caption b is `image_row[b]`, or b without `image_row`. The targets are the words after `<start>` and,
        as in the original, one padding token after `<end>` unless the caption has `max_len` tokens.
        """
        order, starts, inputs, targets, batch_order = self._teacher_forcing(
            token_ids.numpy(), text_len.numpy()
        )
        memory = self._encode_regions(regions, num_regions)
        image = order if image_row is None else image_row.numpy()[order]
        memory = [_rows_of(part, paddle.to_tensor(image)) for part in memory]
        states = self._states(self.embed(paddle.to_tensor(inputs)), starts, *memory)  # [W,H]
        batch_order = paddle.to_tensor(batch_order)
        return self.out(states.gather(batch_order)), paddle.to_tensor(targets).gather(batch_order)

    def write(self, regions: Tensor, num_regions: Tensor, max_len: int) -> Tensor:
        """Return captions by greedy decoding: int64 [B,L] with L <= `max_len` - 2, padded after `<end>`."""
        *constant, state = self._encode_regions(regions, num_regions)
        word = paddle.full([len(regions)], START, dtype="int64")
        ended = paddle.zeros([len(regions)], dtype="bool")
        written = []
        for _ in range(max_len - 2):
            state = self._step(self.embed(word), state, *constant)
            word = paddle.where(ended, paddle.full_like(word, PAD), self.out(state).argmax(axis=1))
            written.append(word)
            ended = ended | (word == END)
            if bool(ended.all()):
                break
        return paddle.stack(written, axis=1)

    def _teacher_forcing(
        self, token_ids: np.ndarray, text_len: np.ndarray
    ) -> tuple[np.ndarray, list[int], np.ndarray, np.ndarray, np.ndarray]:
        """Return what the decoder reads and writes, step by step, with the longest captions first.

        These are the captions [B] in that order, the rows at which each step starts, its inputs and its
        targets, [W] each, and the order [W] of the rows in which each step has the batch's own.
        """
        length = np.minimum(text_len, self.max_len)
        labels = np.full((len(length), length.max() + 1), PAD, token_ids.dtype)  # [B,S+1]
        present = np.arange(labels.shape[1]) < length[:, None]
        labels[present] = token_ids[:, : labels.shape[1]][present[:, : token_ids.shape[1]]]
        cut = text_len > self.max_len
        labels[cut, length[cut] - 1] = END
        steps = np.minimum(length, self.max_len - 1)
        order = np.argsort(-steps, kind="stable")
        step_of, place = (np.arange(steps.max())[:, None] < steps[order]).nonzero()
        starts = [0, *np.bincount(step_of).cumsum().tolist()]
        caption = order[place]
        inputs, targets = labels[caption, step_of], labels[caption, step_of + 1]
        return order, starts, inputs, targets, np.lexsort((caption, step_of))

    def _states(
        self, words: Tensor, starts: list[int], memory: Tensor, attended: Tensor, mask: Tensor, state: Tensor
    ) -> Tensor:
        """Return the states [W,H] after each of the embedded `words` [W,E]; step s begins at `starts[s]`."""
        if uses_cpu_kernels(words):
            weights = self.attend_state.weight, self.attend.weight.squeeze(1)
            keep = None
            if self.training and self.dropout.p > 0:
                keep = self.dropout(paddle.ones([len(words), words.shape[1] + memory.shape[2]]))
            return attentive_states(self.cell, words, state, (memory, attended, mask), weights, starts, keep)
        states = []
        for start, end in pairwise(starts):
            of_captions = [part[: end - start] for part in (state, memory, attended, mask)]
            state = self._step(words[start:end], *of_captions)
            states.append(state)
        return paddle.concat(states)

    def _encode_regions(self, regions: Tensor, num_regions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what the decoder attends to in I images, and its first state.

        These are the states m [I,R,H], their products [I,R,H] with W's part for m, the additive mask [I,R] of
        the padding, and the last state of each image [I,H].
        """
        mapped = self.dropout(self.region_map(regions))
        states, last = recurrent_states(self.region_rnn, mapped, num_regions)
        real = paddle.arange(regions.shape[1]).unsqueeze(0) < num_regions.unsqueeze(1)  # [I,R]
        mask = (real.astype(states.dtype) - 1) * 1e4
        return states, self.attend_region(states), mask, last

    def _step(self, word: Tensor, state: Tensor, memory: Tensor, attended: Tensor, mask: Tensor) -> Tensor:
        """Return the decoder's next state [B,H] after it has read the embedded `word` [B,E]."""
        query = self.attend_state(state)
        context = additive_attention(query, attended, memory, self.attend.weight.squeeze(1), mask)
        return self.cell(self.dropout(paddle.concat([word, context], axis=1)), state)[0]


def _rows_of(x: Tensor, row: Tensor) -> Tensor:
    """Return the rows `row` [B] of `x` [I,...], as [B,...]."""
    return functional.embedding(row, x.reshape([len(x), -1])).reshape([len(row), *x.shape[1:]])
