"""Several models that take turns: speeds by the clock, ratios by the repeat."""

import time

import pytest

from porter.bench.side_by_side import Figures, Spread, Turns
from porter.bench.vllm_figures import show_vllm
from porter.bench.workload import Workload
from porter.commands.bench import say_circumstances

WORKLOAD = Workload(vocab_size=100, requests=4, shortest=10, longest=10, new_tokens=6)


class Model:
    """Takes `prefill` seconds for the prompts and `decode` for each token after."""

    def __init__(self, name: str, prefill: float, decode: float, answer: int) -> None:
        self.kind, self.name, self.model_class = name, name, "m.Class"
        self.load_seconds, self.fused = 2.0, {"qkv": 4, "rms_norm": 9}
        self.prefill, self.decode, self.answer = prefill, decode, answer
        self.asked: list[int] = []

    def generate(self, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        self.asked.append(new_tokens)
        time.sleep(self.prefill + self.decode * (new_tokens - 1))
        return [[self.answer] * new_tokens for _ in prompts]


def figures_of(
    models: list[Model], expected: list[list[int]], repeats: int
) -> list[Figures]:
    turns = Turns(WORKLOAD, expected)
    turns.take(models, repeats)
    return turns.figures()


def test_figures_follow_from_the_clock() -> None:
    quick, slow = Model("quick", 0.02, 0.01, 1), Model("slow", 0.04, 0.02, 2)
    expected = [[1] * 6] * 4
    figures = figures_of([quick, slow], expected, repeats=3)
    assert quick.asked == slow.asked == [2, *[1, 6] * 3]
    assert [f.equal_prompts for f in figures] == [4, 0]
    first, second = figures
    assert first.prefill.median == pytest.approx(40 / 0.02, rel=0.3)
    assert first.decode.median == pytest.approx(20 / 0.05, rel=0.3)
    assert second.prefill_ratio.median == pytest.approx(2, rel=0.3)
    assert second.decode_ratio.median == pytest.approx(2, rel=0.3)
    assert first.prefill_ratio == first.decode_ratio == Spread(1, 1, 1)
    for spread in (first.prefill, second.decode, second.decode_ratio):
        assert spread.low <= spread.median <= spread.high


def test_turns_of_every_loading_count() -> None:
    """Loaded again in another order, a model is compared with itself."""
    turns = Turns(WORKLOAD, [[1] * 6] * 4)
    turns.take([Model("port", 0.02, 0.01, 1), Model("own", 0.02, 0.01, 1)], repeats=2)
    late = Model("port", 0.04, 0.02, 1)
    late.load_seconds = 4.0
    turns.take([Model("own", 0.02, 0.01, 1), late], repeats=1)
    port, own = turns.figures()
    assert (port.name, own.name) == ("port", "own")
    assert (port.load_seconds, own.load_seconds) == (3.0, 2.0)
    assert port.decode.low == pytest.approx(20 / 0.1, rel=0.3)
    assert own.decode_ratio.low == pytest.approx(0.5, rel=0.3)
    assert own.decode_ratio.median == pytest.approx(1, rel=0.3)


def test_the_tables_say_it(capsys: pytest.CaptureFixture[str]) -> None:
    models = [Model("port", 0.001, 0.001, 1), Model("backend", 0.002, 0.001, 1)]
    figures = figures_of(models, [[1] * 6] * 4, repeats=2)
    facts = {
        "models": [f.to_json() for f in figures], "requests": 4, "repeats": 2,
        "compiled": False, "layers": 4, "absent": {"handwritten": "vLLM has none"},
        "parameters": 1_000_000, "prompt_tokens": [10] * 4, "new_tokens": [6] * 4,
        "dtype": "float32", "machine": {"name": "1 threads of a bird"},
    }  # fmt: skip
    show_vllm(facts)
    said = capsys.readouterr().out
    assert "port / backend" in said and "4/4" in said and "vLLM has none" in said
    (fused,) = [ln for ln in said.splitlines() if ln.split()[:2] == ["backend", "1"]]
    assert fused.split() == ["backend", "1", "0", "2.25"]
    say_circumstances(facts)
    assert "1.0 million parameters" in capsys.readouterr().out
