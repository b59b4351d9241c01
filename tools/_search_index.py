"""Search an index by a bundle, without Paddle: what tools/search_retrieval.py does with --index.

    python tools/search_retrieval.py --index out/photos.index --text "a dog on a sofa"
    python tools/search_retrieval.py --index out/photos.index --image my.jpg --text night --minus "a car"
    python tools/search_retrieval.py --index out/photos.index --id 0001.jpg --where 'year >= 2010'
    python tools/search_retrieval.py --index out/photos.index --queries texts.txt --top_k 10 > hits.jsonl

Several terms are added with their weights, and each one's share of a score is shown. --queries has a
sentence a line or, in a .jsonl, objects of "text", "image", "id", "minus", and "text_weight",
"image_weight", "id_weight", "minus_weight"; the answers are JSON, a line each. --where is a condition on
metadata (docs/index.md). Where the index has a cut-off, an answer says whether anything fits. --serve
keeps the index in memory: until that process ends, other searches of the index on this machine are handed
to it.
"""

import argparse
import contextlib
import io
import json
import os
import signal
import socketserver
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

import numpy as np
from _backbone import extract
from _command import blaming
from _warm_search import SOCKET, ask

from config.arguments import report_errors_on_one_line
from config.errors import UserError, cut
from datasets.text_files import numbered_lines, parse_json, read_text
from serving.index.address import open_index
from serving.index.card import bundle_folder
from serving.index.query import Answer, Asker, Term

TERMS = ("text", "image", "id", "minus")
WEIGHTS = tuple(f"{name}_weight" for name in TERMS)
LARGEST_WEIGHT = 1000
TOGETHER = 256  # queries that are encoded together
_LONGEST = 1 << 20  # bytes of a request


def main() -> None:
    """Parse the command line, search, and print the answers."""
    arguments = read_arguments(sys.argv[1:])
    with open_index(arguments.index, resident=bool(arguments.queries or arguments.serve)) as index:
        searcher = IndexSearcher(arguments, index)
        if arguments.serve:
            serve(searcher, Path(arguments.index))
        else:
            searcher.search(arguments)


class IndexSearcher:
    """An open index, and what encodes queries and re-ranks hits."""

    def __init__(self, arguments: argparse.Namespace, index) -> None:
        self._index, self._asker = index, Asker(index)
        self.encoding, self._reranker = Encoding(arguments.bundle, index), open_reranker(arguments, index)

    def search(self, arguments: argparse.Namespace) -> None:
        """Answer the queries of the command line, or of a file, and print the answers."""
        asked = read_queries(arguments.queries) if arguments.queries else {"": asked_by(arguments)}
        for place, query in asked.items():
            if arguments.rerank and "text" not in query:
                where = f"{place}: " if place else ""
                raise UserError(f'{where}--rerank: expected a "text" in every query, which that model reads')
        most = max(arguments.top_k, arguments.rerank_k) if self._reranker else arguments.top_k
        for part in batched(asked.items()):
            terms = self.encoding.terms(part)
            try:
                answers = self._asker.answers(terms, most, arguments.where)
            except UserError:
                for place, made in zip(part, terms, strict=True):
                    with blaming_line(place):
                        self._asker.check(made)
                raise
            for query, made, answer in zip(part.values(), terms, answers, strict=True):
                if self._reranker:
                    best, rest = answer.hits[: arguments.rerank_k], answer.hits[arguments.rerank_k :]
                    hits = [*self._reranker.reordered(query["text"], best), *rest]
                    answer = replace(answer, hits=hits[: arguments.top_k])
                if arguments.queries or arguments.json:
                    print(json.dumps(as_json(query, made, answer), ensure_ascii=False))
                else:
                    show(made, answer, self._index.card.cutoff)


def batched(queries: Iterable[tuple[str, dict]]) -> Iterator[dict[str, dict]]:
    """Yield the queries that are encoded together, by their places."""
    queries = iter(queries)
    while part := dict(islice(queries, TOGETHER)):
        yield part


def blaming_line(place: str) -> contextlib.AbstractContextManager:
    """Name the file and line of a query in the user's mistakes, if it has such a place."""
    return blaming(place) if place else contextlib.nullcontext()


def serve(searcher: IndexSearcher, folder: Path) -> None:
    """Answer the searches that other processes hand over (tools/_warm_search.py) until this one is ended.

    Who may write to the socket in the index's folder may search; others may not. Raises UserError where
    another process serves the index, and for an address that a socket cannot have.
    """
    path = folder / SOCKET
    if not folder.is_dir() or len(os.fsencode(path)) > 100:
        raise UserError(f"--serve: {path}: a socket needs a folder, and a path of at most 100 bytes")
    if ask(str(folder), "/", []) is not None:
        raise UserError(f"--serve: another process serves {folder} already")
    path.unlink(missing_ok=True)
    searcher.encoding.bundle.encode_texts(["warm"])
    with socketserver.UnixStreamServer(str(path), _handler(searcher)) as server:
        path.chmod(0o600)
        print(f"{folder}: searches of it are answered from memory until this process ends", flush=True)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        try:
            server.serve_forever()
        finally:
            path.unlink(missing_ok=True)


def _handler(searcher: IndexSearcher) -> type[socketserver.StreamRequestHandler]:
    class Handler(socketserver.StreamRequestHandler):
        timeout = 10.0

        def handle(self) -> None:
            try:
                place, *words = self.rfile.read(_LONGEST).split(b"\0")[:-1]
            except (OSError, ValueError):
                return
            out, errors, code = io.StringIO(), io.StringIO(), 0
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
                try:
                    os.chdir(place)
                    searcher.search(read_arguments(list(map(os.fsdecode, words))))
                except UserError as error:
                    print(f"error: {error}", file=errors)
                    code = 2
                except SystemExit as error:  # of --help, which ends the process that asks, not this one
                    if error.code:  # of SIGTERM, which ends this one
                        raise
            told, found = (text.getvalue().encode(errors="surrogatepass") for text in (errors, out))
            with contextlib.suppress(OSError):
                self.wfile.write(b"%d\0%d\0%d\0" % (code, len(told), len(found)) + told + found)

    return Handler


def read_arguments(words: list[str]) -> argparse.Namespace:
    """Return the arguments that `words` are; raise UserError for wrong ones."""
    parser = argparse.ArgumentParser(
        prog="search_retrieval.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    report_errors_on_one_line(parser)
    add = parser.add_argument
    add("--index", metavar="INDEX", required=True, help="a folder, or the address of a Milvus")
    add("--bundle", metavar="DIR", help="(default: the one that the index names)")
    add("--text", metavar="SENTENCE", nargs="+", help="what is looked for: one sentence, in quotes")
    add("--image", metavar="FILE", help="a picture, or a .npy file with its features")
    add("--id", metavar="ID", help="an item of the index")
    add("--minus", metavar="SENTENCE", nargs="+", help="what is not looked for: one sentence, in quotes")
    for name in WEIGHTS:
        add(f"--{name}", type=float, default=1.0, metavar="W", help="(default 1)")
    add("--queries", metavar="FILE", type=Path, help="many queries: .jsonl, or a sentence a line")
    add("--where", metavar="CONDITION", help="on metadata, such as 'year >= 2010'")
    add("--rerank", metavar="DIR", help="a bundle that scores pairs: its order of the best")
    add("--rerank_k", type=int, default=50, metavar="K", help="hits that it scores (default 50)")
    add("--rerank_features", metavar="FILE", help="regions and tags (default: the gallery)")
    add("--top_k", type=int, default=5, metavar="K", help="hits to show (default 5)")
    add("--json", action="store_true", help="print the answer as a line of JSON")
    add("--serve", action="store_true", help="stay, and answer other searches of this index from memory")
    if any(word.partition("=")[0] == "--cfg_file" for word in words):
        raise UserError("expected one of --index and --cfg_file, got both: search the index, or the run")
    arguments = parser.parse_args(words)
    arguments.text, arguments.minus = one_sentence(arguments, "text"), one_sentence(arguments, "minus")
    for name in WEIGHTS:
        check_weight(getattr(arguments, name), f"--{name}")
    if min(arguments.top_k, arguments.rerank_k) < 1:
        raise UserError("--top_k and --rerank_k: expected at least 1")
    if [bool(arguments.queries), bool(asked_by(arguments)), arguments.serve].count(True) != 1:
        terms = "--text, --image, --id, --minus or a sum of them"
        raise UserError(f"expected {terms}, or else --queries FILE, or --serve")
    if arguments.rerank and not (arguments.queries or arguments.text):
        raise UserError("--rerank: expected a sentence, which that model reads: add --text")
    return arguments


def one_sentence(arguments: argparse.Namespace, option: str) -> str | None:
    """Return the sentence of an option, None without any; raise UserError for several."""
    given = getattr(arguments, option) or [None]
    if len(given) > 1:
        raise UserError(
            f"--{option}: expected one sentence in quotes, got {len(given)} words or sentences "
            f"({cut(', '.join(map(repr, given)), 80)}): several are a file of --queries, one a line"
        )
    return given[0]


def asked_by(arguments: argparse.Namespace) -> dict:
    """Return the query of the command line, as `read_queries` returns each."""
    given = {name: getattr(arguments, name) for name in TERMS if getattr(arguments, name) is not None}
    return given | {f"{name}_weight": getattr(arguments, f"{name}_weight") for name in given}


def open_reranker(arguments: argparse.Namespace, index):
    """Return the re-ranker of --rerank, or None."""
    if not arguments.rerank:
        return None
    from serving.bundle.bundle import Bundle
    from serving.index.reranking import Reranker

    features = arguments.rerank_features or index.card.source.get("path", "")
    return Reranker(Bundle.open(arguments.rerank), features)


class Encoding:
    """Makes vectors of the terms of queries; the bundle is opened when a term needs it."""

    def __init__(self, folder: str | None, index) -> None:
        self._folder, self._index, self._bundle = folder, index, None

    @property
    def bundle(self):
        """Return the bundle; raise UserError where it is not the index's."""
        if self._bundle is None:
            from serving.bundle.bundle import Bundle

            folder = bundle_folder(self._index.card, self._folder)
            self._bundle = Bundle.open(folder, extract=extract)
            self._index.check_bundle(self._bundle.identity)
        return self._bundle

    def terms(self, queries: dict[str, dict]) -> list[list[Term]]:
        """Return the terms of each query, by its place in a file; all sentences are encoded together."""
        texts: dict[str, str] = {}  # and where each stands first
        for place, query in queries.items():
            for name in ("text", "minus"):
                if name in query:
                    texts.setdefault(query[name], place or f"--{name}")
        vectors = {}
        if texts:
            bundle = self.bundle  # that it cannot be opened is the mistake of no sentence
            for text, place in texts.items():
                with blaming(place):
                    self._check_words(text)
            vectors = dict(zip(texts, bundle.encode_texts(list(texts)), strict=True))
        return [self._terms(place, query, vectors) for place, query in queries.items()]

    def _terms(self, place: str, query: dict, vectors: dict[str, np.ndarray]) -> list[Term]:
        weights = {name: float(query.get(f"{name}_weight", 1.0)) for name in TERMS}
        terms = []
        if "text" in query:
            terms.append(Term(query["text"], vectors[query["text"]], weights["text"]))
        if "image" in query:
            with blaming(place or "--image"):
                vector = self._picture(query["image"])
            terms.append(Term(Path(query["image"]).name, vector, weights["image"], of_picture=True))
        if "id" in query:
            with blaming_line(place):
                vector = self._index.vectors_of([query["id"]])[0]
            of_picture = self._index.card.holds == "pictures"
            terms.append(Term(query["id"], vector, weights["id"], of_picture, query["id"]))
        if "minus" in query:
            terms.append(Term(f"minus {query['minus']}", vectors[query["minus"]], -weights["minus"]))
        return terms

    def _picture(self, path: str) -> np.ndarray:
        if not path.endswith(".npy"):
            return self.bundle.encode_pictures([path])[0]
        from datasets.features.folder import read_one

        return self.bundle.encode_features(read_one(path, self.bundle.feature_width)[None])[0]

    def _check_words(self, text: str) -> None:
        unknown = self.bundle.unknown_words(text)
        if unknown:
            print(f"not in the model's vocabulary: {cut(', '.join(unknown), 400)}", file=sys.stderr)


def read_queries(path: Path) -> dict[str, dict]:
    """Return the queries in a file by file and line; raise UserError that names a line which is none."""
    if not path.is_file():
        raise UserError(f"--queries: {path} cannot be read as text: no such file")
    with blaming("--queries"):
        text = read_text(path)
    read = _json_query if path.suffix == ".jsonl" else lambda path, number, line: {"text": line.strip()}
    queries = {f"{path} line {number}": read(path, number, line) for number, line in numbered_lines(text)}
    if not queries:
        raise UserError(f"--queries: {path} is empty, expected a query a line")
    return queries


def _json_query(path: Path, number: int, line: str) -> dict:
    query = parse_json(path, line, f" line {number}")
    right = isinstance(query, dict) and set(query) <= {*TERMS, *WEIGHTS} and set(query) & set(TERMS)
    right = right and all(isinstance(query[name], str) and query[name] for name in TERMS if name in query)
    if not right:
        raise UserError(
            f"{path} line {number}: expected an object of {', '.join(TERMS)} (texts) and weights, got "
            f"{cut(line, 60)!r}"
        )
    for name in WEIGHTS:
        check_weight(query.get(name, 1.0), f"{path} line {number}: {name}")
    return query


def check_weight(value: object, where: str) -> None:
    """Raise UserError, which `where` begins, for a weight that is no number, or too large for a sum."""
    if type(value) not in (int, float) or not abs(value) <= LARGEST_WEIGHT:  # nor NaN
        raise UserError(
            f"{where}: expected a number from -{LARGEST_WEIGHT} to {LARGEST_WEIGHT}, got {cut(value)}"
        )


def as_json(query: dict, terms: list[Term], answer: Answer) -> dict:
    """Return an answer as an object for JSON."""
    hits = [asdict(hit) for hit in answer.hits]
    for hit in hits:
        shares = hit.pop("shares")
        if not hit["before"]:
            del hit["before"]
        if shares:
            hit["shares"] = dict(zip((term.label for term in terms), shares, strict=True))
    verdict = {}
    if answer.deviations is not None:
        verdict = {"fits": answer.fits, "deviations": round(answer.deviations, 3)}
    return {"query": query, **verdict, "hits": hits}


def show(terms: list[Term], answer: Answer, cutoff: dict | None) -> None:
    """Print an answer as lines."""
    if answer.fits is False:
        print(
            f"nothing here fits: the best is {answer.deviations:.2f} standard deviations above the usual "
            f"score, expected {cutoff['deviations']:.2f}; the nearest are:"
        )
    if not answer.hits:
        print("nothing was found")
    for number, hit in enumerate(answer.hits, start=1):
        shares = ", ".join(
            f"{term.label} {share:+.4f}" for term, share in zip(terms, hit.shares, strict=False)
        )
        parts = [f"{number:3d}  {hit.score:.4f}  {hit.id}", hit.caption or ""]
        parts += [f"({shares})" if shares else "", f"(before: {hit.before})" if hit.before else ""]
        print("  ".join(filter(None, parts)))
