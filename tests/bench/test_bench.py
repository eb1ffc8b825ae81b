"""The workload is the same for all engines, and the engines do all of it."""

import time
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from porter.bench import Workload, measure
from porter.bench.engines import HuggingFaceEngine, Setup, VllmEngine
from porter.gap import CannotRun
from tests.processes import ROOT


class Sleeper:
    """Takes some ms for each token of the longest answer; notes what it was asked."""

    def __init__(self, name: str, ms: float, answer: int = 0) -> None:
        self.name, self.ms, self.answer = name, ms, answer
        self.asked: list[tuple[int, int]] = []

    def generate(self, prompts: list[list[int]], counts: list[int]) -> list[list[int]]:
        self.asked.append((len(prompts), max(counts)))
        time.sleep(max(counts) * self.ms / 1e3)
        return [[self.answer] * n for n in counts]

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
    setup = Setup(Path("unused"), tmp_path, trust_remote_code=True)
    with HuggingFaceEngine(setup) as engine:
        together = engine.generate(prompts, [5, 5, 5])
        alone = [engine.generate([prompt], [5])[0] for prompt in prompts]
    assert together == alone
    assert all(len(tokens) == 5 for tokens in together)


def test_missing_engine_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CannotRun, match="vLLM is not installed"):
        VllmEngine(Setup(Path("port.py"), Path("model")))


def test_answers_of_different_length() -> None:
    workload = Workload(100, requests=5, new_tokens=30, least_new_tokens=10)
    assert sorted(workload.counts) == [10, 15, 20, 25, 30]
    assert workload.total_new_tokens == 100
    assert Workload(100, requests=3, new_tokens=7).counts == [7, 7, 7]


def test_single_requests_have_the_lengths_asked_for() -> None:
    engine = Sleeper("one", 1)
    workload = Workload(100, 2, new_tokens=20, first_tokens=90, alone_tokens=40)
    assert len(workload.single(90)) == 90
    figures = measure([engine], workload, repeats=1)[0]
    assert engine.asked == [(1, 2), (2, 20), (1, 1), (1, 20), (1, 1)]
    assert figures.next_token_ms == pytest.approx(1, rel=0.3)
