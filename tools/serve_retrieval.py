"""Serve a search over an index: a page to look at, and an API for programs (docs/service.md).

    python tools/serve_retrieval.py --index out/photos.index
    python tools/serve_retrieval.py --photos photos/ --bundle out/bundle
    python tools/serve_retrieval.py --index out/scenes.index --pictures data/scenes/images
    python tools/serve_retrieval.py --index out/a.index --index out/b.index --pictures data/scenes/images
    python tools/serve_retrieval.py --index out/photos.index --host 0.0.0.0 --key_file key.txt

--photos makes an index of a folder beside it, or goes on with one, and serves that. Several --index are shown
side by side; --bundle and --pictures then count for all, or are given once for each. Only this machine is
served unless --host says otherwise; others need the key in --read_key_file or --key_file. Whoever has the
latter may add, update and delete items. --pictures is where the pictures of an index of features lie, unless
tools/prepare_data.py made the features, which the index remembers.
It needs requirements-service.txt besides. It is ready when it says so, and SIGTERM lets it end what it began.
"""

import argparse
import logging
import socket
from functools import partial
from pathlib import Path

import _init_paths  # noqa: F401
from _backbone import extract
from _command import blaming, run
from _progress import progress_display
from _unreadable import add_unreadable_option, pictures_left_out

from config.arguments import report_errors_on_one_line
from config.errors import UserError


def main() -> None:
    """Parse the command line, index if asked to, and serve until the process is ended."""
    arguments = read_arguments()
    try:
        import uvicorn

        from serving.app.guard import Protocol
        from serving.app.service import make_app
    except ModuleNotFoundError as error:
        raise UserError(
            f"the service needs the package {error.name}: pip install -r requirements-service.txt"
        ) from error
    from serving.app.collection import Collection
    from serving.app.metrics import Metrics
    from serving.app.pictures import Thumbnails, picture_folder
    from serving.app.settings import Settings, distinct_names, for_each, read_key_file

    keys = {}
    for name, path in (("write_key", arguments.key_file), ("read_key", arguments.read_key_file)):
        if path:
            with blaming("--key_file" if name == "write_key" else "--read_key_file"):
                keys[name] = read_key_file(path)
    settings = Settings(
        host=arguments.host,
        port=arguments.port,
        hosts=tuple(name.lower() for name in arguments.allow_host),
        log_queries=arguments.log_queries,
        **keys,
    ).check()
    listening = listen(settings.host, settings.port)
    addresses = [indexed(arguments)] if arguments.photos else arguments.index
    metrics, opened = Metrics(), []
    bundles, pictures = (
        for_each(option, given, len(addresses))
        for option, given in (("--bundle", arguments.bundle), ("--pictures", arguments.pictures))
    )
    for address, name, bundle, shown in zip(
        addresses, distinct_names(addresses), bundles, pictures, strict=True
    ):
        reranking = (arguments.rerank, arguments.rerank_features, arguments.rerank_k)
        collection = Collection(address, metrics, bundle, settings.upload_pixels, *reranking, name, extract)
        folder = Path(address)
        with blaming("--pictures"):
            thumbnails = Thumbnails(
                picture_folder(shown, collection.card.source),
                folder / "pictures" if folder.is_dir() else None,
            )
        if collection.card.holds == "pictures" and not thumbnails.shown:
            print(f"{name}: no pictures are shown: name their folder with --pictures FOLDER", flush=True)
        opened.append((collection, thumbnails))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    app = make_app(*opened[0], settings, metrics, opened[1:])
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            access_log=False,  # it would write queries down
            log_level="warning",
            server_header=False,
            timeout_keep_alive=10,
            timeout_graceful_shutdown=int(settings.deadline_seconds) + 5,
            limit_concurrency=1024,  # connections, of which a page opens several
            http=partial(Protocol, refusal=app.state.refusal),
            h11_max_incomplete_event_size=64 << 10,
            proxy_headers=False,  # nothing depends on the client's address
        )
    )
    announce(server, app, settings)
    server.run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; raise UserError where that is not possible."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=2048)
        # Connections inherit it. Otherwise an answer's body waits 40 ms until the client has acknowledged its
        # head: asyncio sets it on sockets that were made for TCP by number alone, which this one is not.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    except UnicodeError as error:
        raise UserError(f"--host: expected a name or an address of this machine, got {host!r}") from error
    except OSError as error:
        raise UserError(f"--port {port}: {host} cannot be listened on ({error}): choose another") from error


def announce(server, app, settings) -> None:
    """Let the server print its address when it listens."""
    started = server.startup

    async def startup(sockets=None) -> None:
        await started(sockets=sockets)
        if server.started:
            port = sockets[0].getsockname()[1]
            host = f"[{settings.host}]" if ":" in settings.host else settings.host
            service = app.state.service
            for each in (service, *service.others.values()):
                print(f"{each.collection.name}: {each.collection.card.describe()}", flush=True)
            print(f"ready: http://{host}:{port}/", flush=True)

    server.startup = startup


def indexed(arguments: argparse.Namespace) -> str:
    """Index the folder of --photos, unless that has been done, and return where the index is."""
    from serving.bundle.bundle import Bundle
    from serving.index import build
    from serving.index.finishing import Options
    from serving.index.sources import open_source

    photos = Path(arguments.photos)
    out = Path(arguments.index[0] if arguments.index else photos.with_name(photos.name + ".index"))
    if not (out / "card.json").exists():
        bundle = Bundle.open(arguments.bundle[0], extract=extract)
        with blaming("--photos"):
            source = open_source(
                photos, arguments.captions, left_out=pictures_left_out(photos, arguments.unreadable)
            )
        options = Options(bundle_folder=str(Path(arguments.bundle[0]).resolve()))
        print(f"{out}: indexing {len(source.items):,} items of {photos}", flush=True)
        with progress_display() as show:
            build.build(bundle, source, out, options, show)
    return str(out)


def read_arguments() -> argparse.Namespace:
    """Return what the command line says; raise UserError for what cannot be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    report_errors_on_one_line(parser)
    add = parser.add_argument
    many = {"action": "append", "default": []}
    add("--index", **many, metavar="INDEX", help="a folder, or a Milvus's address; several: side by side")
    add("--photos", metavar="FOLDER", help="pictures to index first (into --index, or FOLDER.index)")
    add("--captions", metavar="FILE", help="sentences and metadata of --photos")
    add_unreadable_option(parser)
    add("--bundle", **many, metavar="DIR", help="an exported model (default: the one that the index names)")
    add(
        "--pictures",
        **many,
        metavar="FOLDER",
        help="pictures of items (default: what the index is made of)",
    )
    add("--rerank", metavar="DIR", help="a bundle that scores pairs, for queries that ask for it")
    add("--rerank_k", type=int, default=50, metavar="K", help="hits that it scores (default 50)")
    add("--rerank_features", metavar="FILE", help="regions and tags (default: the gallery)")
    add("--host", default="127.0.0.1", metavar="A", help="address to listen on (default: this machine's own)")
    add("--port", type=int, default=8000, metavar="N", help="(default 8000; 0: any)")
    add("--allow_host", **many, metavar="NAME", help="a name by which it is called")
    add("--key_file", metavar="FILE", help="the key of those who may change the index")
    add("--read_key_file", metavar="FILE", help="the key of those who may search it")
    add("--log_queries", action="store_true", help="write queries into the log")
    arguments = parser.parse_args()
    if not (arguments.index or arguments.photos):
        raise UserError("expected --index INDEX, or --photos FOLDER with --bundle DIR")
    if arguments.photos and not arguments.bundle:
        raise UserError("--photos: expected --bundle DIR, the model that encodes them")
    if arguments.photos and len(arguments.index) > 1:
        raise UserError("--photos: expected one --index, into which they go; serve that beside others then")
    if arguments.rerank_k < 1:
        raise UserError("--rerank_k: expected at least 1")
    return arguments


if __name__ == "__main__":
    run(main)
