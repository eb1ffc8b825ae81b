"""Decides what each step computes: continuous batching with chunked prefill.

Every step takes as many tokens as the budget allows, running requests first. A
request that finds no free block puts back the request that came last, whose tokens
are computed again later.
"""

from collections import deque
from dataclasses import dataclass

from porter.gap import UsageError
from porter.runtime.config import VllmConfig
from porter.runtime.kv_cache import BlockPool
from porter.runtime.request import Request


@dataclass(frozen=True)
class ScheduledRequest:
    """num_tokens: how many of the request's tokens this step computes."""

    request: Request
    num_tokens: int

    @property
    def completes(self) -> bool:
        """Whether the step reaches the last known token, so that one follows."""
        request = self.request
        return request.num_computed + self.num_tokens == request.num_tokens


class Scheduler:
    def __init__(self, vllm_config: VllmConfig, num_blocks: int) -> None:
        self.max_num_batched_tokens = (
            vllm_config.scheduler_config.max_num_batched_tokens
        )
        self.max_num_seqs = vllm_config.scheduler_config.max_num_seqs
        self.max_model_len = vllm_config.model_config.max_model_len
        self.vocab_size = vllm_config.model_config.hf_text_config.vocab_size
        self.block_size = vllm_config.cache_config.block_size
        self.pool = BlockPool(num_blocks)
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self._put_back_now = False

    def add(self, request: Request) -> None:
        """Queue a request; UsageError when it could never run."""
        if not request.prompt:
            raise UsageError("a prompt has no tokens")
        if not all(0 <= token < self.vocab_size for token in request.prompt):
            wrong = next(t for t in request.prompt if not 0 <= t < self.vocab_size)
            raise UsageError(
                f"token {wrong} isn't in the vocabulary of {self.vocab_size} tokens"
            )
        longest = self.max_model_len
        if request.max_tokens_in_cache > longest:
            raise UsageError(
                f"a prompt of {len(request.prompt)} tokens with "
                f"{request.params.max_tokens} new ones exceeds the model's "
                f"{longest} tokens"
            )
        if self._blocks_for(request.max_tokens_in_cache) > self.pool.num_blocks:
            raise UsageError(
                f"a sequence of {request.max_tokens_in_cache} tokens needs more than "
                f"the cache's {self.pool.num_blocks} blocks of {self.block_size}"
            )
        self.waiting.append(request)

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def schedule(self) -> list[ScheduledRequest]:
        """The requests of the next step, those that compute one token first."""
        budget = self.max_num_batched_tokens
        chosen: list[ScheduledRequest] = []
        for request in list(self.running):
            if budget == 0:
                break
            if request not in self.running:  # put back for one before it
                continue
            count = min(request.num_tokens - request.num_computed, budget)
            if self._make_room(request, count):
                chosen.append(ScheduledRequest(request, count))
                budget -= count
        if self._put_back_now:
            # Whoever comes in now would be the next to be put back.
            self._put_back_now = False
            budget = 0
            chosen = [item for item in chosen if item.request in self.running]
        while self.waiting and budget and len(self.running) < self.max_num_seqs:
            request = self.waiting[0]
            count = min(request.num_tokens, budget)
            if self._blocks_for(count) > self.pool.num_free:
                break
            self.waiting.popleft()
            self.running.append(request)
            self._extend(request, count)
            chosen.append(ScheduledRequest(request, count))
            budget -= count
        return sorted(chosen, key=lambda item: item.num_tokens > 1)

    def finish(self, request: Request) -> None:
        """The request is done; its blocks are free."""
        request.finished = True
        self.running.remove(request)
        self._release(request)

    def abort(self) -> None:
        """Drop all requests."""
        for request in self.running:
            self._release(request)
        self.running.clear()
        self.waiting.clear()

    def _blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def _make_room(self, request: Request, count: int) -> bool:
        """Extend the request's blocks, putting later requests back if need be."""
        wanted = self._blocks_for(request.num_computed + count) - len(request.blocks)
        while wanted > self.pool.num_free:
            last = self.running[-1]
            self._put_back(last)
            if last is request:
                return False
        self._extend(request, request.num_computed + count)
        return True

    def _put_back(self, request: Request) -> None:
        self.running.remove(request)
        self._release(request)
        request.num_computed = 0
        request.preemptions += 1
        self._put_back_now = True
        # Its logits, if wanted, are computed again with its tokens.
        request.prompt_logits.clear()
        self.waiting.appendleft(request)

    def _extend(self, request: Request, num_tokens: int) -> None:
        at_the_end = self._blocks_for(request.max_tokens_in_cache)
        while len(request.blocks) < self._blocks_for(num_tokens):
            self.pool.extend(request.blocks, at_the_end)

    def _release(self, request: Request) -> None:
        self.pool.release(request.blocks)
        request.blocks = []
