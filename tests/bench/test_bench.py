"""The workload is the same for all engines, and the engines do all of it."""

import time
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from porter.bench import Workload, measure
from porter.bench.engines import HuggingFaceEngine, VllmEngine
from porter.gap import CannotRun
from tests.processes import ROOT


class Sleeper:
    """Takes some ms for each token of the longest answer; notes what it was asked."""

    def __init__(self, name: str, ms: float, answer: int = 0) -> None:
        self.name, self.ms, self.answer = name, ms, answer
        self.asked: list[tuple[int, int]] = []

    def generate(self, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        self.asked.append((len(prompts), new_tokens))
        time.sleep(new_tokens * self.ms / 1e3)
        return [[self.answer] * new_tokens for _ in prompts]

    def __enter__(self) -> "Sleeper":
        return self

    def __exit__(self, *error: object) -> None:
        pass


def test_workload_is_what_its_numbers_say() -> None:
    workload = Workload(vocab_size=1000)
    lengths = [len(prompt) for prompt in workload.prompts]
    assert len(lengths) == 32
    assert (min(lengths), max(lengths)) == (16, 256)
    assert sum(lengths) == sum(16 + i * 240 // 31 for i in range(32))
    assert all(0 <= token < 1000 for prompt in workload.prompts for token in prompt)
    assert workload.prompts == Workload(vocab_size=1000).prompts
    assert workload.prompts != Workload(vocab_size=1000, seed=1).prompts


def test_one_request_is_a_workload() -> None:
    workload = Workload(vocab_size=50, requests=1, shortest=4, longest=9)
    assert [len(prompt) for prompt in workload.prompts] == [4]


def test_figures_follow_from_the_clock() -> None:
    slow, quick = Sleeper("slow", 2), Sleeper("quick", 1, answer=1)
    workload = Workload(vocab_size=100, requests=4, new_tokens=50)
    figures = measure([slow, quick], workload)
    assert [f.engine for f in figures] == ["slow", "quick"]
    for engine, got in zip((slow, quick), figures, strict=True):
        assert 0.05 * engine.ms <= got.seconds
        assert got.tokens_per_second == pytest.approx(200 / got.seconds, rel=0.02)
        assert engine.ms <= got.first_token_ms
        assert engine.ms <= got.next_token_ms * 1.1
        assert engine.asked == [(1, 2), *[(4, 50), (1, 1), (1, 50)] * 2]
    assert [f.equal_prompts for f in figures] == [4, 0]


def test_padding_does_not_change_what_huggingface_says(tmp_path: Path) -> None:
    """Otherwise its speed would be that of another computation."""
    config = AutoConfig.from_pretrained(
        ROOT / "fixtures/models/heron", trust_remote_code=True
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=True)
    model.save_pretrained(tmp_path)
    prompts = Workload(config.vocab_size, 3, shortest=2, longest=9).prompts
    with HuggingFaceEngine(Path("unused"), tmp_path, trust_remote_code=True) as engine:
        together = engine.generate(prompts, 5)
        alone = [engine.generate([prompt], 5)[0] for prompt in prompts]
    assert together == alone
    assert all(len(tokens) == 5 for tokens in together)


def test_missing_engine_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CannotRun, match="vLLM is not installed"):
        VllmEngine(Path("port.py"), Path("model"), False)
