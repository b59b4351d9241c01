import pytest

from tests.other_processors import WAYS


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let models compute as on this machine, as where there is no MKL, and as on a GPU."""
    WAYS[request.param](monkeypatch)
    return request.param


@pytest.fixture(params=["as here", "by oneDNN", "without MKL"])
def with_and_without_mkl(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let the CPU's own layers multiply by MKL, where it is, and by NumPy."""
    WAYS[request.param](monkeypatch)
    return request.param
