"""What clients send, and what they get, as JSON."""

import base64
import binascii
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from config.errors import UserError
from serving.app.collection import Wanted

MOST_HITS, MOST_DEPTH, MOST_TERMS = 200, 1000, 16

Text = Annotated[str, Field(min_length=1, max_length=2000)]
Identity = Annotated[str, Field(min_length=1, max_length=1000)]
Numbers = list[FiniteFloat] | list[list[FiniteFloat]]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Term(_Message):
    """One part of a query: exactly one of a sentence, an id, a picture's file in base64, or its features."""

    text: Text | None = None
    id: Identity | None = None
    picture: str | None = Field(None, min_length=1, description="a picture's file in base64")
    features: Numbers | None = Field(None, description="a vector [F], or regions [R,F]")
    weight: FiniteFloat = Field(1.0, ge=-100, le=100, description="negative: what is not looked for")

    @model_validator(mode="after")
    def _one(self) -> "Term":
        if sum(each is not None for each in (self.text, self.id, self.picture, self.features)) != 1:
            raise ValueError("expected exactly one of text, id, picture and features")
        return self

    def wanted(self) -> Wanted:
        """Return the term as the collection takes it; raise UserError for broken base64 or features."""
        if self.text is not None:
            return Wanted("text", self.text, self.weight)
        if self.id is not None:
            return Wanted("id", self.id, self.weight)
        if self.picture is not None:
            return Wanted("picture", decoded(self.picture), self.weight)
        return Wanted("features", as_array(self.features), self.weight)


class Query(_Message):
    """A sum of terms, and which of its hits are wanted."""

    terms: list[Term] = Field(min_length=1, max_length=MOST_TERMS)
    index: str | None = Field(None, max_length=200, description="the index to search (default: the first)")
    k: int = Field(20, ge=1, le=MOST_HITS, description="hits of a page")
    offset: int = Field(0, ge=0, le=MOST_DEPTH - 1, description="hits before the page")
    where: str | None = Field(None, min_length=1, max_length=2000, description="a condition on metadata")
    rerank: bool = Field(False, description="put the best in the order of the pair scorer")
    deadline: float | None = Field(None, gt=0, le=60, description="seconds after which the answer is useless")

    def wanted(self) -> tuple[Wanted, ...]:
        """Return the terms as the collection takes them; raise UserError for broken base64 or features."""
        return tuple(term.wanted() for term in self.terms)


class Compare(Query):
    """A query that several indexes answer; none named: all."""

    indexes: list[Annotated[str, Field(min_length=1, max_length=200)]] = Field([], max_length=8)


class Content(_Message):
    """An item to add or update: what is encoded, and what is known of it."""

    caption: str | None = Field(None, max_length=10_000)
    metadata: dict = Field(default_factory=dict)
    picture: str | None = Field(None, min_length=1, description="a picture's file in base64")
    features: Numbers | None = None


class Description(_Message):
    """Caption and metadata that replace those of an item."""

    caption: str | None = Field(None, max_length=10_000)
    metadata: dict = Field(default_factory=dict)


class Explain(_Message):
    """An item, and the query whose score with it is explained: a sentence, or terms as in a search."""

    text: Text | None = None
    terms: list[Term] = Field([], max_length=MOST_TERMS)
    id: Identity
    index: str | None = Field(None, max_length=200, description="the index (default: the first)")

    @model_validator(mode="after")
    def _one(self) -> "Explain":
        if (self.text is None) == (not self.terms):
            raise ValueError("expected either text or terms")
        return self

    def wanted(self) -> tuple[Wanted, ...]:
        """Return the terms as the collection takes them; raise UserError for broken base64 or features."""
        return tuple(term.wanted() for term in self.terms or [Term(text=self.text)])


class Share(BaseModel):
    """What a term contributed to a score: the shares of a hit add up to its score."""

    term: str
    weight: float
    share: float


class HitMessage(BaseModel):
    """A hit: `deviations` tell how far its score stands above the usual, `fits` whether that is enough."""

    rank: int
    id: str
    score: float
    deviations: float | None = None
    fits: bool | None = None
    caption: str | None = None
    metadata: dict = Field(default_factory=dict)
    thumbnail: str | None = None
    shares: list[Share] = Field(default_factory=list)
    rank_before: int | None = None


class AnswerMessage(BaseModel):
    """Hits, best first; where nothing fits, `reason` says why."""

    hits: list[HitMessage]
    offset: int
    next_offset: int | None
    fits: bool | None
    reason: str | None
    unknown_words: list[str]
    items: int
    index: str
    model: str
    milliseconds: dict[str, float]


class CompareMessage(BaseModel):
    """What each index answers to one query; `shared` are the ids on the pages of all, in the first's order.

    An index that cannot answer, such as for an id that it does not have, has an error in place of its answer.
    """

    answers: dict[str, "AnswerMessage | ErrorMessage"]
    shared: list[str]


class ItemMessage(BaseModel):
    """What the index knows of an item."""

    id: str
    caption: str | None
    metadata: dict
    thumbnail: str | None


class WordShare(BaseModel):
    """A word, and by how much the score falls where it is left out."""

    word: str
    share: float


class RegionShare(BaseModel):
    """A region of a picture: its box as parts of width and height, and what the score loses without it."""

    box: list[float] | None
    tag: str | None
    share: float


class TermShare(Share):
    """A term's part of a score, and what each word of a sentence contributes to the whole."""

    words: list[WordShare] = Field(default_factory=list)


class ExplainMessage(BaseModel):
    """How terms, words of sentences and regions of a picture contribute to a score.

    The shares of terms add up to the score; those of words and regions are what it loses without them.
    `words` are those of the first sentence.
    """

    score: float
    terms: list[TermShare]
    words: list[WordShare]
    regions: list[RegionShare]


class ErrorMessage(BaseModel):
    """Why there is no answer: a code for programs, and a sentence for people."""

    code: str
    message: str


class Refusal(BaseModel):
    """The body of every answer that is none."""

    error: ErrorMessage


def decoded(text: str) -> bytes:
    """Return what base64 stands for; raise UserError for other text."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError("picture: expected a file in base64") from error


def as_array(numbers: Numbers) -> np.ndarray:
    """Return features as float32 [F] or [R,F]; raise UserError for rows of different lengths."""
    try:
        with np.errstate(over="ignore"):
            return np.asarray(numbers, np.float32)
    except ValueError as error:
        raise UserError("features: expected numbers [F], or regions [R,F] of equal width") from error
