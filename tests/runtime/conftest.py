"""Tiny models: one thread is faster than two, and the figures are the same."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from porter.runtime import distributed
from porter.runtime.config import ModelConfig, VllmConfig, set_current_vllm_config
from tests.runtime.reference import (
    LEARNED_CONFIG,
    ROPE_CONFIG,
    learned_weights,
    rope_weights,
    write_checkpoint,
)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def rope_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rope")
    return write_checkpoint(folder, ROPE_CONFIG, rope_weights(ROPE_CONFIG))


@pytest.fixture(scope="session")
def learned_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In three files with an index."""
    folder = tmp_path_factory.mktemp("learned")
    weights = learned_weights(LEARNED_CONFIG)
    return write_checkpoint(folder, LEARNED_CONFIG, weights, files=3)


class NoConfig:
    """A transformers config without a field."""

    def get_text_config(self) -> Any:
        return self


@contextmanager
def current_config(max_model_len: int = 256) -> Iterator[VllmConfig]:
    """What layer constructors need outside of an engine."""
    config = VllmConfig(ModelConfig("none", NoConfig(), max_model_len=max_model_len))
    with set_current_vllm_config(config):
        yield config


@contextmanager
def as_rank(rank: int, size: int) -> Iterator[None]:
    """Layers built inside shard themselves as this tensor parallel rank."""
    group = distributed.Group(tuple(range(size)), rank)
    with distributed.use_groups(distributed.Groups(tp=group)):
        yield
