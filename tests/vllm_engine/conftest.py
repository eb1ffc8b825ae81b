"""A port of our own writing and its checkpoint, for the installed vLLM."""

from pathlib import Path

import pytest

from tests.runtime.reference import PORTS, ROPE_CONFIG, rope_weights, write_checkpoint


@pytest.fixture(scope="session")
def rope_port() -> Path:
    return PORTS / "rope_decoder.py"


@pytest.fixture(scope="session")
def rope_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rope")
    return write_checkpoint(folder, ROPE_CONFIG, rope_weights(ROPE_CONFIG))
