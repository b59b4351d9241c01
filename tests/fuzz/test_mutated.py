"""Damaged files give one line, whatever the damage: hundreds of them here, thousands by `make fuzz`."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.errors import UserError
from tests.fuzz.damage import changes, damaged
from tests.fuzz.kept import ALL
from tests.fuzz.watched import LONGEST_MESSAGE, MOST_BYTES, peak_bytes

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "200"))


@pytest.mark.parametrize("name", ALL)
def test_damage_is_one_line(name: str, tmp_path: Path) -> None:
    reader = ALL[name]
    whole = tmp_path / "whole"
    whole.mkdir()
    reader.write(whole)
    reader.read(whole)  # as it is, it can be read
    before = peak_bytes()

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(reader.files), changes)
    def check(file: str, made: list[tuple]) -> None:
        folder = tmp_path / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        data = damaged((whole / file).read_bytes(), made)
        (folder / file).write_bytes(data)
        try:
            reader.read(folder)
        except UserError as error:
            message = str(error).replace(f"{folder}/", "")
            assert "\n" not in message and len(message) <= LONGEST_MESSAGE, message
        assert peak_bytes() - before - len(data) <= MOST_BYTES

    check()
