"""Ties scheduler, ranks and sampler together."""

from pathlib import Path
from typing import Any

import torch

from porter.runtime.config import VllmConfig
from porter.runtime.kv_cache import choose_num_blocks
from porter.runtime.model_runner import ModelRunner, StepInput
from porter.runtime.request import Request, RequestOutput, SamplingParams
from porter.runtime.sampler import sample
from porter.runtime.scheduler import ScheduledRequest, Scheduler


class Engine:
    """The first rank with its model, and the other ranks behind it."""

    def __init__(
        self,
        port: str | Path,
        vllm_config: VllmConfig,
        config_options: dict[str, Any],
        *,
        num_blocks: int | None,
        architecture: str | None,
        allow_pickle: bool,
        strict: bool,
    ) -> None:
        self.vllm_config = vllm_config
        self.runner = ModelRunner(
            port,
            vllm_config,
            architecture=architecture,
            allow_pickle=allow_pickle,
            strict=strict,
        )
        self.weight_report = self.runner.weight_report
        self.num_blocks = choose_num_blocks(vllm_config, num_blocks)
        self.runner.bind_caches(self.num_blocks)

    def generate(
        self, prompts: list[list[int]], params: list[SamplingParams]
    ) -> list[RequestOutput]:
        requests = [
            Request(list(prompt), each)
            for prompt, each in zip(prompts, params, strict=True)
        ]
        self._run(requests)
        return [request.output() for request in requests]

    def prefill_logits(
        self, prompts: list[list[int]], in_one_step: bool = False
    ) -> list[torch.Tensor]:
        requests = [
            Request(list(prompt), SamplingParams(), wants_prompt_logits=True)
            for prompt in prompts
        ]
        budget = max(map(len, prompts), default=1) if in_one_step else None
        self._run(requests, budget)
        return [torch.cat(request.prompt_logits) for request in requests]

    def _run(self, requests: list[Request], budget: int | None = None) -> None:
        scheduler = Scheduler(self.vllm_config, self.num_blocks)
        if budget is not None:
            scheduler.max_num_batched_tokens = budget
        for request in requests:
            scheduler.add(request)
        while scheduler.has_work:
            self._step(scheduler)

    def _step(self, scheduler: Scheduler) -> None:
        scheduled = scheduler.schedule()
        logits = self._forward(_step_input(scheduled))
        sampled: list[tuple[int, Request]] = []
        row = 0
        for item in scheduled:
            request, completes = item.request, item.completes
            rows = _logit_count(item)
            if request.wants_prompt_logits:
                request.prompt_logits.append(logits[row : row + rows].float().cpu())
            elif completes:
                sampled.append((row, request))
            row += rows
            request.num_computed += item.num_tokens
            if completes and request.wants_prompt_logits:
                scheduler.finish(request)
        self._sample(scheduler, logits, sampled)

    def _sample(
        self,
        scheduler: Scheduler,
        logits: torch.Tensor,
        sampled: list[tuple[int, Request]],
    ) -> None:
        if not sampled:
            return
        requests = [request for _, request in sampled]
        tokens = sample(logits[[row for row, _ in sampled]], requests)
        for request, token in zip(requests, tokens, strict=True):
            request.token_ids.append(token)
            params = request.params
            stops = not params.ignore_eos and token in params.stop_token_ids
            if stops or len(request.token_ids) == params.max_tokens:
                scheduler.finish(request)

    def _forward(self, step: StepInput) -> torch.Tensor:
        logits = self.runner.run(step)
        assert logits is not None
        return logits

    def shutdown(self) -> None:
        pass


def _logit_count(item: ScheduledRequest) -> int:
    """Rows of logits that a request wants of this step."""
    if item.request.wants_prompt_logits:
        return item.num_tokens
    return int(item.completes)


def _step_input(scheduled: list[ScheduledRequest]) -> StepInput:
    step = StepInput([], [], [], [], [], [])
    for item in scheduled:
        request = item.request
        start, end = request.num_computed, request.num_computed + item.num_tokens
        first_row = len(step.token_ids)
        step.token_ids.extend(request.all_ids[start:end])
        step.positions.extend(range(start, end))
        step.query_lens.append(item.num_tokens)
        step.seq_lens.append(end)
        step.blocks.append(list(request.blocks))
        wanted = _logit_count(item)
        rows = range(first_row + item.num_tokens - wanted, first_row + item.num_tokens)
        step.logit_rows.extend(rows)
    return step
