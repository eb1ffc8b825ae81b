"""Decides what each step computes: continuous batching with chunked prefill.

Every step takes as many tokens as the budget allows, running requests first. A
request that finds no free block puts back the request that came last, whose tokens
are computed again later.

A step can be decided while the one before it still runs: its requests then have a
token whose place is known and whose value isn't.
"""

from collections import deque
from typing import NamedTuple

from porter.gap import UsageError
from porter.runtime.block_pool import CachingBlockPool, block_hash
from porter.runtime.config import VllmConfig
from porter.runtime.kv_cache import BlockPool
from porter.runtime.request import Request


class ScheduledRequest(NamedTuple):
    """num_tokens: how many of the request's tokens this step computes. completes:
    whether it reaches the last one chosen, so that the next one follows."""

    request: Request
    num_tokens: int
    completes: bool


class Scheduler:
    """pool: where blocks come from; by default one of its own, that shares none."""

    def __init__(
        self,
        vllm_config: VllmConfig,
        num_blocks: int,
        pool: BlockPool | CachingBlockPool | None = None,
    ) -> None:
        self.max_num_batched_tokens = (
            vllm_config.scheduler_config.max_num_batched_tokens
        )
        self.max_num_seqs = vllm_config.scheduler_config.max_num_seqs
        self.max_model_len = vllm_config.model_config.max_model_len
        self.vocab_size = vllm_config.model_config.hf_text_config.vocab_size
        self.block_size = vllm_config.cache_config.block_size
        self.pool = BlockPool(num_blocks) if pool is None else pool
        self.remembers = isinstance(self.pool, CachingBlockPool) and self.pool.keeps
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self._put_back_now: set[Request] = set()

    def add(self, request: Request) -> None:
        """Queue a request; UsageError when it could never run."""
        if not request.prompt:
            raise UsageError("a prompt has no tokens")
        if min(request.prompt) < 0 or max(request.prompt) >= self.vocab_size:
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
        budget, size = self.max_num_batched_tokens, self.block_size
        singles: list[ScheduledRequest] = []
        others: list[ScheduledRequest] = []
        put_back = self._put_back_now

        def take(request: Request, count: int) -> None:
            completes = request.num_computed + count == request.num_tokens
            item = ScheduledRequest(request, count, completes)
            (singles if count == 1 else others).append(item)

        for request in list(self.running):
            if budget == 0:
                break
            if request.num_tokens == request.limit or request in put_back:
                continue
            count = min(request.num_tokens - request.num_computed, budget)
            end = request.num_computed + count
            if end <= len(request.blocks) * size or self._make_room(request, count):
                take(request, count)
                budget -= count
        if put_back:
            # Whoever comes in now would be the next to be put back.
            budget = 0
            singles = [item for item in singles if item.request not in put_back]
            others = [item for item in others if item.request not in put_back]
            put_back.clear()
        while self.waiting and budget and len(self.running) < self.max_num_seqs:
            request = self.waiting[0]
            self._share_blocks(request)
            count = min(request.num_tokens - request.num_computed, budget)
            end = request.num_computed + count
            if self._blocks_for(end) - len(request.blocks) > self.pool.num_free:
                self._release(request)
                break
            self.waiting.popleft()
            self.running.append(request)
            self._extend(request, end)
            take(request, count)
            budget -= count
        return singles + others

    def finish(self, request: Request) -> None:
        """The request is done; its blocks are free."""
        request.finished = True
        if request in self.running:
            self.running.remove(request)
        else:  # put back while its last token was on its way
            self.waiting.remove(request)
        self._release(request)

    def remember(self, request: Request) -> None:
        """Make the request's full blocks known, for others with the same beginning."""
        pool, size = self.pool, self.block_size
        if not self.remembers or request.finished:
            return
        assert isinstance(pool, CachingBlockPool)
        full = min(request.num_computed, request.num_known) // size
        for i in range(len(request.block_hashes), full):
            self._hash_block(request, i)
        for i in range(request.num_remembered, full):
            pool.remember(request.blocks[i], request.block_hashes[i])
        request.num_remembered = max(request.num_remembered, full)

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
        request.preemptions += 1
        self._put_back_now.add(request)
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
        request.num_computed = request.num_remembered = 0

    def _share_blocks(self, request: Request) -> None:
        """Begin with the blocks that hold the request's first tokens already.

        Its last token is computed in any case: the next one follows from it. Logits of
        a whole prompt are computed whole.
        """
        pool = self.pool
        if not self.remembers or request.wants_prompt_logits:
            return
        assert isinstance(pool, CachingBlockPool)
        full = (request.num_known - 1) // self.block_size
        for i in range(len(request.block_hashes), full):
            self._hash_block(request, i)
        request.blocks = pool.share(request.block_hashes[:full])
        request.num_remembered = len(request.blocks)
        request.num_computed = len(request.blocks) * self.block_size

    def _hash_block(self, request: Request, index: int) -> None:
        before = request.block_hashes[index - 1] if index else b""
        tokens = request.ids(index * self.block_size, (index + 1) * self.block_size)
        request.block_hashes.append(block_hash(before, tokens))
