"""Build an index, in a folder beside what is searched, which the card then names in one step.

What has been encoded stays: a build that was interrupted goes on where it stopped, and the processes of a
launched job encode blocks in turns. One process puts the blocks together, in order.
"""

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from config.errors import UserError, cut
from config.files.whole import write_whole
from config.progress import ShowProgress, no_progress
from serving.index.card import FILE as CARD
from serving.index.card import Card, as_json, read_card, write_card
from serving.index.finishing import ENGINES, Options, encoded_queries, finish
from serving.index.index import Index, cannot_write, clean, writer_lock
from serving.index.items import Items
from serving.index.sources import Encoder, Source
from serving.index.vectors import VectorFile, check_vectors, take_rows

_BLOCKS = {"pictures": 128, "features": 1024, "captions": 1024}  # items that are encoded together
_PATIENCE = 60.0  # seconds after which a block of another process is encoded here
_DRAFT, _PLAN = "building", "plan.json"
_DEFAULT = Options()


@dataclass(frozen=True)
class Job:
    """Which process of how many this is, from 0."""

    number: int = 0
    processes: int = 1

    @classmethod
    def launched(cls) -> "Job":
        """Return what the launcher of this process says."""
        number, processes = (os.environ.get(name) for name in ("PADDLE_TRAINER_ID", "PADDLE_TRAINERS_NUM"))
        return cls(int(number or 0), int(processes or 1))


def build(
    encoder: Encoder,
    source: Source,
    out: Path,
    options: Options = _DEFAULT,
    show: ShowProgress = no_progress,
    job: Job = Job(),
    previous: str | None = None,
) -> Card | None:
    """Encode a source into the index `out`, and return its card; None in processes that only help.

    `previous` is the data of the index that it replaces (tools/build_index.py --from). Raises UserError where
    `out` holds an index otherwise, where another build was begun, and for a full disk; what has been encoded
    stays there, and nothing does where that is nothing.
    """
    draft = out / _DRAFT
    plan = _plan(encoder, source)
    if job.number:
        _help(encoder, source, draft, plan, job)
        return None
    new, unbegun = not out.exists(), not draft.exists()
    with writer_lock(out):
        if (out / CARD).exists():
            if previous is None:
                raise UserError(f"{out}: there is an index already: give another --out, or --overwrite")
            clean(out)
        began = time.monotonic()
        _begin(draft, plan)
        try:
            _encode_all(encoder, source, draft, show, job)
            card = Card(
                data="",
                holds=source.holds,
                count=len(source.items),
                dimension=encoder.dimension,
                measure=encoder.measure,
                bundle=encoder.identity,
                bundle_folder=options.bundle_folder,
                source=source.describe(),
                previous=previous,
            )
            queries = encoded_queries(encoder, source)
            card = finish(draft, card, options, queries, show)
            card = replace(card, build_seconds=round(time.monotonic() - began, 3))
            return publish(out, draft, card)
        except OSError as error:
            raise cannot_write(draft, error) from error
        except UserError:
            if unbegun and job.processes == 1:
                _leave_nothing(out, draft, new)
            raise


def publish(out: Path, draft: Path, card: Card) -> Card:
    """Let a finished draft take the place of what the index held; raise OSError and UserError."""
    taken = [int(path.name) for path in out.iterdir() if path.name.isdigit()]
    card = replace(card, data=f"{max(taken, default=0) + 1:04d}")
    for name in (_PLAN, "parts"):
        path = draft / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    write_whole(draft / CARD, as_json(card))
    os.rename(draft, out / card.data)
    write_card(out, card)
    return card


def compact(folder: Path, options: Options | None = None, show: ShowProgress = no_progress) -> Card:
    """Write an index anew without what was deleted, with an engine for all its rows, and switch to it.

    Searches go on meanwhile. Recall is measured again, on perturbed items; the cut-off is kept. Raises
    UserError where another process writes, and for a full disk; then the index is as it was.
    """
    with writer_lock(folder):
        clean(folder)
        card = read_card(folder)
        data, draft = folder / card.data, folder / "compacting"
        if not card.count:
            raise UserError(f"{folder}: it holds no items: add some, or delete the folder")
        engine = card.engine if card.engine in ENGINES and card.count else "auto"
        options = options or Options(engine="auto" if engine == "scan" else engine)
        try:
            draft.mkdir()
            with contextlib.closing(Items(data)) as old, contextlib.closing(Items(draft, create=True)) as new:
                vectors, checks = VectorFile(data, card.dimension).open(old.state().rows)
                file, done, total = VectorFile(draft, card.dimension), 0, old.state().items
                for block in _in_blocks(old.all(), 4096):
                    rows = np.array([row for row, _ in block], np.int64)
                    file.write(done, take_rows(data, vectors, checks, rows))
                    new.insert([item for _, item in block])
                    done += len(block)
                    show("copying", done, total)
            began = time.monotonic()
            finished = finish(draft, replace(card, count=total), options, None, show)
            seconds = round(card.build_seconds + time.monotonic() - began, 3)
            card = publish(folder, draft, replace(finished, cutoff=card.cutoff, build_seconds=seconds))
        except OSError as error:
            raise cannot_write(draft, error) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(data, ignore_errors=True)
        return card


def rebuild(
    encoder: Encoder,
    source: Source,
    folder: Path,
    options: Options = _DEFAULT,
    show: ShowProgress = no_progress,
    job: Job = Job(),
) -> Card | None:
    """Encode all items of the index in `folder` with another model, beside it, and switch to that.

    Searches go on with the old vectors until then; they stay in the folder until `drop_previous`.
    `source` has the contents of all items. Raises UserError as `build` does.
    """
    card = read_card(folder)
    with Index(folder, resident=False) as old:
        source = source.limited_to(list(old.items()), folder)
    return build(encoder, source, folder, options, show, job, previous=card.data)


def drop_previous(folder: Path) -> None:
    """Delete the data that an index had before its model was changed; raise UserError if there are none."""
    with writer_lock(folder):
        card = read_card(folder)
        if card.previous is None:
            raise UserError(f"{folder}: it keeps no older data")
        write_card(folder, replace(card, previous=None))
        clean(folder)


def _plan(encoder: Encoder, source: Source) -> dict:
    content = [[item.id, item.caption, item.metadata] for item in source.items]
    digest = hashlib.sha256(
        json.dumps([source.kind, str(source.path.resolve()), content]).encode()
    ).hexdigest()
    return {"bundle": encoder.identity, "items": len(source.items), "source": digest}


def _begin(draft: Path, plan: dict) -> None:
    """Make the folder of a build, or go on with the same one that was interrupted."""
    try:
        draft.mkdir(parents=True, exist_ok=True)
        there = json.loads((draft / _PLAN).read_text()) if (draft / _PLAN).exists() else None
        if there is not None and there != plan:
            raise UserError(
                f"{draft}: another gallery, or bundle, was begun here: finish it with the same command, "
                "or --overwrite it"
            )
        Items(draft, create=True).close()
        (draft / "parts").mkdir(exist_ok=True)
        if there is None:
            write_whole(draft / _PLAN, json.dumps(plan))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{draft / _PLAN}: damaged ({cut(error)}): begin anew with --overwrite") from error
    except OSError as error:
        raise cannot_write(draft, error) from error


def _encode_all(encoder: Encoder, source: Source, draft: Path, show: ShowProgress, job: Job) -> None:
    total, size = len(source.items), _BLOCKS[source.kind]
    file = VectorFile(draft, encoder.dimension)
    with contextlib.closing(Items(draft)) as items:
        done = items.state().rows
        while done < total:
            show("encoding", done, total)
            number = done // size
            part = slice(done, min((number + 1) * size, total))
            path = draft / "parts" / f"{number}.npy"
            vectors = _encoded(encoder, source, part, path, number % job.processes == job.number)
            file.write(done, vectors)
            items.insert(source.items[part])
            path.unlink(missing_ok=True)
            done = part.stop
        show("encoding", done, total)


def _encoded(encoder: Encoder, source: Source, part: slice, path: Path, own: bool) -> np.ndarray:
    """Return the vectors of a block, from the process that makes them, or else made here."""
    waited_until = time.monotonic() + _PATIENCE
    while not own and time.monotonic() < waited_until:
        if path.exists():
            vectors = np.load(path)
            if len(vectors) == part.stop - part.start:
                return check_vectors(str(path), vectors, encoder.dimension, encoder.measure)
        time.sleep(0.02)
    vectors = source.encode(encoder, part)
    where = f"{source.path}: items {part.start + 1} to {part.stop}"
    return check_vectors(where, vectors, encoder.dimension, encoder.measure)


def _leave_nothing(out: Path, draft: Path, new: bool) -> None:
    """Remove a build that failed at its first block, and the folder `out` that it was to fill, if `new`."""
    with contextlib.closing(Items(draft)) as items:
        if items.state().rows:
            return
    shutil.rmtree(draft)
    if new:
        shutil.rmtree(out)


def _help(encoder: Encoder, source: Source, draft: Path, plan: dict, job: Job) -> None:
    """Encode this process's blocks for the one that puts them together."""
    waited_until = time.monotonic() + _PATIENCE
    while not (draft / _PLAN).exists() or json.loads((draft / _PLAN).read_text()) != plan:
        if time.monotonic() > waited_until:
            raise UserError(f"{draft}: the first process of the job has not begun to build here")
        time.sleep(0.05)
    total, size = len(source.items), _BLOCKS[source.kind]
    with contextlib.closing(Items(draft)) as items:
        done = items.state().rows
    for number, start in enumerate(range(0, total, size)):
        path = draft / "parts" / f"{number}.npy"
        if number % job.processes != job.number or start < done or path.exists():
            continue
        vectors = _encoded(encoder, source, slice(start, min(start + size, total)), path, True)
        new = path.with_name(f".{number}.{os.getpid()}.npy")
        try:
            np.save(new, vectors)
            os.replace(new, path)
        except FileNotFoundError:  # the first process has finished without this block
            return
        except OSError as error:
            raise cannot_write(path, error) from error


def _in_blocks(items: Iterator, size: int) -> Iterator[list]:
    block = []
    for item in items:
        block.append(item)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block
