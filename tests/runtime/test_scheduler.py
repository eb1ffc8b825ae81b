"""Batches, chunks and blocks."""

import pytest
from transformers import LlamaConfig

from porter.runtime.config import (
    CacheConfig,
    ModelConfig,
    SchedulerConfig,
    VllmConfig,
)
from porter.runtime.kv_cache import BlockPool
from porter.runtime.request import Request, SamplingParams
from porter.runtime.scheduler import Scheduler
from porter.runtime.step import largest_step


def scheduler(num_blocks: int = 100, tokens: int = 16, seqs: int = 4) -> Scheduler:
    config = VllmConfig(
        ModelConfig("none", LlamaConfig(vocab_size=100), max_model_len=1000),
        CacheConfig(block_size=4),
        scheduler_config=SchedulerConfig(tokens, seqs),
    )
    return Scheduler(config, num_blocks)


def request(length: int, max_tokens: int = 8) -> Request:
    return Request(list(range(length)), SamplingParams(max_tokens=max_tokens))


def step(of: Scheduler) -> list[tuple[int, int]]:
    """(prompt length, tokens) of each scheduled request; each that completes gets a
    token."""
    scheduled = of.schedule()
    for item in scheduled:
        completes = item.completes
        item.request.num_computed += item.num_tokens
        if completes:
            item.request.num_tokens += 1
            item.request.learn(0)
            if len(item.request.token_ids) == item.request.params.max_tokens:
                of.finish(item.request)
    return [(len(item.request.prompt), item.num_tokens) for item in scheduled]


def test_decodes_come_first_and_prefills_fill_the_budget() -> None:
    of = scheduler()
    for length in (10, 30, 3):
        of.add(request(length))
    assert step(of) == [(10, 10), (30, 6)]
    assert step(of) == [(10, 1), (30, 15)]
    assert step(of) == [(10, 1), (30, 9), (3, 3)]
    assert sorted(step(of)) == [(3, 1), (10, 1), (30, 1)]


def test_no_more_sequences_than_allowed() -> None:
    of = scheduler(seqs=2)
    for length in (2, 3, 4):
        of.add(request(length, max_tokens=2))
    assert step(of) == [(2, 2), (3, 3)]
    assert step(of) == [(2, 1), (3, 1)]
    assert step(of) == [(4, 4)]


def test_last_comer_is_put_back_and_computed_again() -> None:
    of = scheduler(num_blocks=4)
    first, second = request(8, 8), request(8, 8)
    of.add(first)
    of.add(second)
    assert step(of) == [(8, 8), (8, 8)]
    assert step(of) == [(8, 1)]
    assert (first.preemptions, second.preemptions) == (0, 1)
    assert second.num_computed == 0 and second.blocks == []
    while of.running and first in of.running:
        step(of)
    while of.has_work:
        step(of)
    assert len(second.token_ids) == 8
    assert of.pool.num_free == 4


def test_all_blocks_come_back() -> None:
    of = scheduler(num_blocks=20, seqs=3)
    for length in (5, 17, 40, 8, 8, 23):
        of.add(request(length))
    while of.has_work:
        assert step(of)
    assert of.pool.num_free == 20


def test_a_sequence_gets_a_run_of_blocks() -> None:
    pool = BlockPool(20)
    first: list[int] = []
    second: list[int] = []
    for _ in range(2):
        pool.extend(first, 6)
    for _ in range(3):
        pool.extend(second, 5)
    for _ in range(4):
        pool.extend(first, 6)
    assert first == [0, 1, 2, 3, 4, 5] and second == [6, 7, 8]
    pool.release(first)
    third: list[int] = []
    for _ in range(9):
        pool.extend(third, 9)
    assert third == list(range(11, 20))


@pytest.mark.parametrize("size", [3, 7])
def test_promises_yield_when_nothing_else_is_free(size: int) -> None:
    pool = BlockPool(size)
    greedy: list[int] = []
    late: list[int] = []
    pool.extend(greedy, size)
    for _ in range(size - 1):
        pool.extend(late, size)
    assert sorted(greedy + late) == list(range(size)) and pool.num_free == 0
    pool.release(greedy)
    pool.release(late)
    assert pool.num_free == size


@pytest.mark.parametrize("limits", [(100, 7, 3), (100, 30, 64), (5, 30, 2), (7, 7, 1)])
def test_the_largest_step_keeps_to_its_limits(limits: tuple[int, int, int]) -> None:
    """Memory for it is measured before the first request."""
    tokens, model_len, num_seqs = limits
    step = largest_step(tokens, model_len, num_seqs, 4)
    assert len(step.token_ids) == len(step.positions) == sum(step.query_lens)
    assert len(step.token_ids) == min(tokens, model_len * num_seqs)
    assert max(step.seq_lens) <= model_len and len(step.seq_lens) <= num_seqs
    assert all(4 * len(blocks) >= max(step.seq_lens) for blocks in step.blocks)
    assert len(step.logit_rows) <= num_seqs
