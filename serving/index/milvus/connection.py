"""A connection to a Milvus whose every failure is one line."""

import contextlib
import logging
from collections.abc import Iterator

from config.errors import UnavailableError, UserError

SECONDS = 60.0  # that one call may take


class Connection:
    """A connection whose every failure is one line."""

    def __init__(self, server: str) -> None:
        try:
            from grpc import RpcError  # some of them come through pymilvus as they are
            from pymilvus import MilvusClient
            from pymilvus.exceptions import MilvusException
        except ImportError as error:
            raise UserError(f"{server}: Milvus needs pip install -r requirements-milvus.txt") from error
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it prints tracebacks of what is raised
        self.server, self._failures, self._client = server, (MilvusException, RpcError), None
        self.lite = "://" not in server
        if self.lite:  # as does the server that Milvus Lite starts in this process
            logging.getLogger("grpc._server").setLevel(logging.CRITICAL)
        with self._refused("cannot be reached"):
            self._client = MilvusClient(server, timeout=SECONDS)

    def call(self, method: str, *arguments: object, **options: object):
        """Return what a method of `MilvusClient` returns; raise UnavailableError."""
        with self._refused("failed"):
            return getattr(self._client, method)(*arguments, timeout=SECONDS, **options)

    def schema(self, **options: object):
        """Return an empty schema."""
        return self._client.create_schema(**options)

    def index_parameters(self):
        """Return empty parameters of an index."""
        return self._client.prepare_index_params()

    def close(self) -> None:
        """End it, and with Milvus Lite release the folder, which its own `close` leaves locked."""
        if self._client is None:
            return
        with contextlib.suppress(Exception):
            self._client.close()
        if self.lite:
            from milvus_lite.server_manager import server_manager_instance

            server_manager_instance.release_server(self.server)

    @contextlib.contextmanager
    def _refused(self, what: str) -> Iterator[None]:
        try:
            yield
        except (*self._failures, OSError, ValueError) as error:
            details = getattr(error, "details", None)  # a method of gRPC's errors
            reason = details() if callable(details) else getattr(error, "message", error)
            reason = " ".join(str(reason).split())[:200]
            if "Open local milvus failed" in reason:
                reason = "another process has it open, and Milvus Lite serves one at a time"
            raise UnavailableError(
                f"{self.server}: Milvus {what} ({reason}); what it has acknowledged is stored"
            ) from error
