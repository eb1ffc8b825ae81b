"""Ties scheduler, ranks and sampler together."""

from pathlib import Path
from typing import Any

import torch

from porter.gap import CannotRun
from porter.runtime.config import VllmConfig
from porter.runtime.distributed import Groups
from porter.runtime.kv_cache import choose_num_blocks
from porter.runtime.model_runner import ModelRunner, StepInput
from porter.runtime.request import Request, RequestOutput, SamplingParams
from porter.runtime.sampler import sample
from porter.runtime.scheduler import ScheduledRequest, Scheduler
from porter.runtime.worker import WorkerGroup


class Engine:
    """The first rank with its model, and the other ranks behind it."""

    def __init__(
        self,
        port: str | Path,
        vllm_config: VllmConfig,
        config_options: dict[str, Any],
        *,
        num_blocks: int | None,
        **runner_options: Any,
    ) -> None:
        self.vllm_config = vllm_config
        self._workers: WorkerGroup | None = None
        groups = Groups()
        parallel = vllm_config.parallel_config
        if parallel.world_size > 1:
            self._workers = WorkerGroup(
                parallel.tensor_parallel_size,
                parallel.pipeline_parallel_size,
                vllm_config.device_config.device.type,
                port,
                vllm_config.model_config.model,
                config_options,
                runner_options,
            )
            groups = self._workers.groups
        try:
            self.runner = ModelRunner(
                port, vllm_config, groups=groups, **runner_options
            )
            self.weight_report = self.runner.weight_report
            for report in self._workers.reports() if self._workers else ():
                self.weight_report = self.weight_report.merged(report)
            self.num_blocks = choose_num_blocks(vllm_config, num_blocks)
            self.runner.bind_caches(self.num_blocks)
            if self._workers:
                self._workers.tell("caches", self.num_blocks)
        except BaseException:
            self.shutdown()
            raise

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
        if self._workers is None:
            logits = self.runner.run(step)
        else:
            logits = self._forward_with(self._workers, step)
        assert logits is not None
        return logits

    def _forward_with(
        self, workers: WorkerGroup, step: StepInput
    ) -> torch.Tensor | None:
        try:
            workers.tell("step", step)
            logits = self.runner.run(step)
            if workers.pp_size > 1:
                logits = workers.receive_logits(self.runner.device)
            return logits
        except (RuntimeError, OSError, CannotRun) as error:
            # Where another rank broke off, it says why better than this one can.
            try:
                workers.raise_failure()
            finally:
                self.shutdown()
            if isinstance(error, CannotRun):
                raise
            raise CannotRun(f"the ranks lost each other: {error}") from error

    def shutdown(self) -> None:
        if self._workers is not None:
            self._workers.shutdown()
            self._workers = None


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
