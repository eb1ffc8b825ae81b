"""A step decided while the one before runs, and blocks shared, change no token."""

from pathlib import Path
from typing import Any

import pytest

from porter.runtime.llm import LLM, RequestOutput, SamplingParams
from porter.runtime.step import StepInput
from tests.runtime.reference import PORTS

ROPE = PORTS / "rope_decoder.py"
PROMPTS = [[(7 * i + n) % 131 for i in range(n)] for n in (5, 33, 1, 70)]
WAYS: dict[str, dict[str, Any]] = {
    "at once": {},
    "in chunks": {"max_num_batched_tokens": 7, "block_size": 3},
    "two at a time": {"max_num_seqs": 2},
    "with little cache": {"num_blocks": 24, "block_size": 4},
}
KINDS = [
    SamplingParams(max_tokens=12),
    SamplingParams(max_tokens=1),
    SamplingParams(max_tokens=9, temperature=0.8, seed=3, logprobs=2),
    SamplingParams(max_tokens=20, logprobs=0),
]


def answers(outputs: list[RequestOutput]) -> list[Any]:
    return [(o.token_ids, [set(x) for x in o.logprobs or ()]) for o in outputs]


@pytest.mark.parametrize("prefix_caching", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_overlapped_steps_give_the_same(
    way: str, prefix_caching: bool, rope_model: Path
) -> None:
    expected = LLM(ROPE, rope_model, overlap=False).generate(PROMPTS, KINDS)
    llm = LLM(
        ROPE,
        rope_model,
        overlap=True,
        enable_prefix_caching=prefix_caching,
        **WAYS[way],
    )
    for _ in range(2):
        outputs = llm.generate(PROMPTS, KINDS)
        assert answers(outputs) == answers(expected)
    if way == "with little cache":
        assert sum(output.preemptions for output in outputs) > 0
    if llm._engine._pool is not None:
        assert llm._engine._pool.num_free == llm._engine.num_blocks


def test_a_stop_is_found_out_late_and_nothing_shows_it(rope_model: Path) -> None:
    llm = LLM(ROPE, rope_model, overlap=True)
    free = llm.generate(PROMPTS, SamplingParams(max_tokens=24))
    stops = tuple(output.token_ids[10] for output in free)
    params = SamplingParams(max_tokens=24, ignore_eos=False, stop_token_ids=stops)
    for got, whole in zip(llm.generate(PROMPTS, params), free, strict=True):
        end = min(whole.token_ids.index(s) for s in stops if s in whole.token_ids)
        assert got.token_ids == whole.token_ids[: end + 1]


class Watched:
    """Counts the tokens that an engine computes."""

    def __init__(self, llm: LLM) -> None:
        runner: Any = llm._engine.runner
        run, self.tokens = runner.run, 0

        def counted(step: StepInput) -> Any:
            self.tokens += len(step.token_ids)
            return run(step)

        runner.run = counted


def test_a_shared_beginning_is_computed_once(rope_model: Path) -> None:
    llm = LLM(ROPE, rope_model, enable_prefix_caching=True, block_size=4)
    plain = LLM(ROPE, rope_model, block_size=4)
    watched = Watched(llm)
    beginning = PROMPTS[3][:42]
    prompts = [beginning + end for end in ([1, 2, 3], [4], [], [5, 6])]
    params = SamplingParams(max_tokens=6)
    for prompt in prompts:
        expected = plain.generate([prompt], params)[0].token_ids
        watched.tokens = 0
        assert llm.generate([prompt], params)[0].token_ids == expected
        known = 0 if prompt is prompts[0] else 40
        assert watched.tokens == len(prompt) - known + 5
    watched.tokens = 0
    whole = llm.generate([prompts[0] + [7]], SamplingParams(max_tokens=1))
    assert whole and watched.tokens == 46 - 44  # the answer's tokens are known too


def test_logits_of_a_prompt_are_whole_though_its_blocks_are_known(
    rope_model: Path,
) -> None:
    llm = LLM(ROPE, rope_model, enable_prefix_caching=True, block_size=4)
    llm.generate(PROMPTS, SamplingParams(max_tokens=1))
    assert [len(logits) for logits in llm.prefill_logits(PROMPTS)] == [5, 33, 1, 70]


def test_a_failed_call_gives_its_blocks_back(
    rope_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = LLM(ROPE, rope_model, enable_prefix_caching=True)
    pool, runner = llm._engine._pool, llm._engine.runner
    assert pool is not None
    run = runner.run
    monkeypatch.setattr(runner, "run", lambda step: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        llm.generate(PROMPTS, SamplingParams(max_tokens=1))
    assert pool.num_free == pool.num_blocks
    monkeypatch.setattr(runner, "run", run)
    expected = LLM(ROPE, rope_model).generate(PROMPTS, SamplingParams(max_tokens=3))
    got = llm.generate(PROMPTS, SamplingParams(max_tokens=3))
    assert [o.token_ids for o in got] == [o.token_ids for o in expected]
