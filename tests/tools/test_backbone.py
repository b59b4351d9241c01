"""Features of pictures by the network that a bundle names."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from config.errors import UserError
from tools._backbone import extract


def test_a_thread_does_not_import_paddle_which_would_take_sigterm_from_a_service(monkeypatch):
    monkeypatch.delitem(sys.modules, "paddle", raising=False)
    record = {"backbone": {"kind": "paddle"}, "detector": None, "options": []}
    with ThreadPoolExecutor(1) as threads:
        with pytest.raises(UserError, match="needs Paddle, which is imported at a start: start again"):
            threads.submit(extract, record, Path("model.json"), [b""]).result()
    assert "paddle" not in sys.modules
