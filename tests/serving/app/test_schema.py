"""Whatever the OpenAPI description allows, and much that it forbids, is answered or refused in one sentence.

SCHEMA_EXAMPLES raises how many requests of each kind are tried.
"""

import os
from pathlib import Path

import pytest

pytest.importorskip("schemathesis", reason="schemathesis is in requirements-dev.txt")

import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.generation.modes import GenerationMode

from tests.serving.app.conftest import KEY, bearing

EXAMPLES = int(os.environ.get("SCHEMA_EXAMPLES", "12"))
BOUNDED = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
WITHOUT_PARAMETERS = ("/health", "/ready", "/metrics")  # cannot be asked wrongly
ROUTES = 14  # of the description; one that it loses would not be tried


@pytest.fixture
def client(photos, features, serve):
    """Return a client of two indexes: one of pictures, one of features, which has a cut-off.

    Its limits of time are an hour, so that a process that stands still on a busy machine is no error inside.
    """
    patient = {"deadline_seconds": 3600.0, "upload_seconds": 3600.0}
    return serve(photos, features, raised=False, write_key=KEY, **patient)


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_no_request_that_the_description_makes_is_an_error_inside(photos, client, mode):
    described = schemathesis.openapi.from_dict(client.app.openapi())
    operations = [each.ok() for each in described.get_all_operations()]
    assert len(operations) >= ROUTES
    before = files_in(photos.parent)
    for operation in operations:
        if mode is GenerationMode.NEGATIVE and operation.path in WITHOUT_PARAMETERS:
            continue

        @BOUNDED
        @given(operation.as_strategy(generation_mode=mode))
        def ask(case) -> None:
            answer = sent(client, case)
            asked = f"{case.method} {case.formatted_path} {case.query} {str(case.body)[:200]}"
            said = f"{asked}: {answer.text[:300]}"
            own = isinstance(case.body, dict) and case.body.get(
                "deadline"
            )  # it may be too soon for any answer
            assert answer.status_code < 500 or (own and answer.status_code == 504), said
            if answer.status_code >= 400:
                message = answer.json()["error"]["message"]
                assert message and "\n" not in message and "Traceback" not in message, said

        ask()
    assert client.get("/v1/search", params={"q": "red"}).status_code == 200
    new = {path.relative_to(photos.parent).parts[0] for path in files_in(photos.parent) - before}
    assert new <= {"photos.index", "features.index"}, "only the indexes' own folders are written"


def sent(client, case):
    """Send what was made, with the key for writing."""
    made = requests.Request(**case.as_transport_kwargs(base_url="http://127.0.0.1:8000")).prepare()
    headers = {**made.headers, **bearing(KEY)}
    return client.request(made.method, made.url, headers=headers, content=made.body)


def files_in(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}
