"""The caption decoder of VSRN: it writes an image's caption from its regions (S2VT with attention)."""

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.nn import functional

from models.encoders import recurrent_states
from models.layers.additive_attention import additive_attention

PAD, START, END = 0, 1, 2  # as the vocabulary layout vsepp numbers them


class Captioner(nn.Layer):
    """Write a caption word by word, attending to the image's regions before each (1909.02701, eq. 8).

    The regions [R,D] pass a linear map and a GRU, whose last state starts the decoder. At each step a
    region's weight is softmax(w^T tanh(W [m_r; h])), with m_r the GRU's state at region r and h the
    decoder's; the decoder, a GRU, reads the word before and the weighted sum of the m_r. The part of W that
    meets m_r does not change from step to step, so it is applied once a batch.

    `max_len` is the longest caption in tokens, marks included; a longer one is cut and its end forced.
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
        self.region_map = nn.Linear(region_dim, hidden_dim)
        self.region_rnn = nn.GRU(hidden_dim, hidden_dim)
        self.embed = nn.Embedding(vocab_size, word_dim)
        self.attend_region = nn.Linear(hidden_dim, hidden_dim)
        self.attend_state = nn.Linear(hidden_dim, hidden_dim, bias_attr=False)
        self.attend = nn.Linear(hidden_dim, 1, bias_attr=False)
        self.cell = nn.GRUCell(word_dim + hidden_dim, hidden_dim)
        self.out = nn.Linear(hidden_dim, vocab_size)
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
        """Read the true captions word by word; return what it expects next.

        `regions` [I,R,D] with `num_regions` [I]; `token_ids` [B,T], of which `text_len` [B] count; the image
        of caption b is `image_row[b]`, or b. Returns logits [W,V] and the words [W] that should come, of all
        captions: those after `<start>`, and the padding after `<end>`, which the original learns too.
        """
        inputs, targets, step_of, row_of = self._teach(token_ids.numpy(), text_len.numpy())
        memory = self._remember(regions, num_regions)
        if image_row is not None:
            memory = tuple(_rows_of(part, image_row) for part in memory)
        words = self.embed(paddle.to_tensor(inputs))  # [B,S,E]
        *constant, state = memory
        states = []
        for step in range(inputs.shape[1]):
            state = self._step(words[:, step], state, *constant)
            states.append(state)
        # The states of the steps that count, step by step.
        rows = paddle.to_tensor(step_of * len(inputs) + row_of)
        logits = self.out(paddle.concat(states).gather(rows))  # [W,V]
        return logits, paddle.to_tensor(targets[row_of, step_of])

    def write(self, regions: Tensor, num_regions: Tensor, max_len: int) -> Tensor:
        """Return the likeliest next word, step by step: int64 [B,L], L < `max_len`, padded after `<end>`."""
        *constant, state = self._remember(regions, num_regions)
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

    def _teach(
        self, token_ids: np.ndarray, text_len: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return the words to read and to write, [B,S] each, and step and row [W] of those that count."""
        length = np.minimum(text_len, self.max_len)
        labels = np.full((len(length), length.max() + 1), PAD, token_ids.dtype)  # [B,S+1]
        present = np.arange(labels.shape[1]) < length[:, None]
        labels[present] = token_ids[:, : labels.shape[1]][present[:, : token_ids.shape[1]]]
        cut = text_len > self.max_len
        labels[cut, length[cut] - 1] = END
        steps = np.minimum(length, self.max_len - 1)
        labels = labels[:, : steps.max() + 1]
        step_of, row_of = (np.arange(steps.max())[:, None] < steps).nonzero()
        return labels[:, :-1], labels[:, 1:], step_of, row_of

    def _remember(self, regions: Tensor, num_regions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what the decoder reads of I images: m [I,R,H], its part of W m, the padding, the last m."""
        mapped = self.dropout(self.region_map(regions))
        states, last = recurrent_states(self.region_rnn, mapped, num_regions)
        real = paddle.arange(regions.shape[1]).unsqueeze(0) < num_regions.unsqueeze(1)  # [I,R]
        mask = (real.astype(states.dtype) - 1) * 1e4
        return states, self.attend_region(states), mask, last

    def _step(self, word: Tensor, state: Tensor, memory: Tensor, attended: Tensor, mask: Tensor) -> Tensor:
        """Return the decoder's next state [B,H] after reading `word` [B,E]."""
        query = self.attend_state(state)
        context = additive_attention(query, attended, memory, self.attend.weight.squeeze(1), mask)
        return self.cell(self.dropout(paddle.concat([word, context], axis=1)), state)[0]


def _rows_of(x: Tensor, row: Tensor) -> Tensor:
    """Return [B,...], the rows `row` [B] of `x` [I,...]."""
    return functional.embedding(row, x.reshape([len(x), -1])).reshape([len(row), *x.shape[1:]])
