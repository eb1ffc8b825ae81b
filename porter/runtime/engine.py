"""Ties scheduler, ranks and sampler together.

On a GPU the next step is decided and sent off while the one before it runs: what the
host does then costs no time. The tokens of a step stay on the GPU for the next one and
come to the host meanwhile. A request that stops on a token is found out a step late;
what that step chose for it is dropped.
"""

from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from porter.gap import CannotRun
from porter.runtime.block_pool import CachingBlockPool
from porter.runtime.config import VllmConfig
from porter.runtime.distributed import Groups
from porter.runtime.model_runner import ModelRunner
from porter.runtime.request import Request, RequestOutput, SamplingParams
from porter.runtime.sampler import Chosen, choose
from porter.runtime.scheduler import ScheduledRequest, Scheduler
from porter.runtime.step import StepInput
from porter.runtime.worker import WorkerGroup


@dataclass(frozen=True)
class _Launched:
    """A step under way: the tokens it chooses, and for which requests."""

    requests: list[Request]
    chosen: Chosen


class Engine:
    """The first rank with its model, and the other ranks behind it.

    num_blocks: of the cache, by default what the memory allows. overlap: decide a step
    while the one before runs; by default on GPUs, unless layers are spread over them.
    """

    def __init__(
        self,
        port: str | Path,
        vllm_config: VllmConfig,
        config_options: dict[str, Any],
        *,
        num_blocks: int | None,
        overlap: bool | None = None,
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
        on_gpu = vllm_config.device_config.device.type == "cuda"
        one_stage = parallel.pipeline_parallel_size == 1
        self._steps_ahead = int(on_gpu and one_stage if overlap is None else overlap)
        try:
            self.runner = ModelRunner(
                port, vllm_config, groups=groups, **runner_options
            )
            self.weight_report = self.runner.weight_report
            for report in self._workers.answers() if self._workers else ():
                self.weight_report = self.weight_report.merged(report)
            self.num_blocks = self._choose_num_blocks(num_blocks)
            self._tell("caches", self.num_blocks)
            self.runner.bind_caches(self.num_blocks)
            if on_gpu and one_stage and vllm_config.use_cuda_graphs:
                self._tell("graphs")
                self.runner.capture_graphs()
        except BaseException:
            self.shutdown()
            raise
        self._pool: CachingBlockPool | None = None
        keeps = vllm_config.cache_config.enable_prefix_caching
        if keeps or on_gpu:
            # A GPU reads blocks that lie anywhere as fast as those in a row.
            self._pool = CachingBlockPool(self.num_blocks, keeps)

    def _tell(self, command: str, argument: Any = None) -> None:
        if self._workers is not None:
            self._workers.tell(command, argument)

    def _choose_num_blocks(self, asked: int | None) -> int:
        """What every rank has room for; measuring it takes all of them."""
        self._tell("blocks", asked)
        chosen = [self.runner.choose_num_blocks(asked)]
        return min(chosen + (self._workers.answers() if self._workers else []))

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
        scheduler = Scheduler(self.vllm_config, self.num_blocks, self._pool)
        if budget is not None:
            scheduler.max_num_batched_tokens = budget
        for request in requests:
            scheduler.add(request)
        under_way: deque[_Launched] = deque()
        try:
            while scheduler.has_work:
                scheduled = scheduler.schedule()
                if scheduled:
                    under_way.append(self._launch(scheduler, scheduled))
                ahead = self._steps_ahead if scheduled else 0
                while len(under_way) > ahead:
                    self._collect(scheduler, under_way.popleft())
        except BaseException:
            scheduler.abort()
            raise

    def _launch(
        self, scheduler: Scheduler, scheduled: list[ScheduledRequest]
    ) -> _Launched:
        step = _step_input(scheduled)
        if self._steps_ahead:
            step = replace(step, num_chosen=_num_chosen(scheduled))
        logits = self._forward(step)
        rows: list[int] = []
        requests: list[Request] = []
        row = 0
        for item in scheduled:
            request, num_tokens, completes = item
            if request.wants_prompt_logits:
                part = logits[row : row + num_tokens]
                request.prompt_logits.append(part.float().cpu())
                row += num_tokens
            elif completes:
                rows.append(row)
                requests.append(request)
                row += 1
            request.num_computed += num_tokens
            if scheduler.remembers:
                scheduler.remember(request)
            if completes and request.wants_prompt_logits:
                scheduler.finish(request)
        if len(rows) < len(logits):
            logits = logits[rows]
        chosen = choose(logits, requests)
        if step.num_chosen:
            self.runner.keep_tokens(chosen.tokens)
        for row, request in enumerate(requests):
            request.num_tokens += 1
            request.last_row = row
        return _Launched(requests, chosen)

    def _collect(self, scheduler: Scheduler, step: _Launched) -> None:
        tokens, logprobs = step.chosen.to_host()
        for i, (request, token) in enumerate(zip(step.requests, tokens, strict=True)):
            if request.finished:  # its stop was found out after this step began
                continue
            request.learn(token)
            params = request.params
            if params.logprobs is not None:
                request.logprobs.append(logprobs[i])
            stops = not params.ignore_eos and token in params.stop_token_ids
            if stops or request.num_known == request.limit:
                scheduler.finish(request)
            elif scheduler.remembers:
                scheduler.remember(request)

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
            if hasattr(self, "runner"):  # building it may be what failed
                self.runner.release_graphs()
            self._workers.shutdown()
            self._workers = None


def _num_chosen(scheduled: list[ScheduledRequest]) -> int:
    return sum(
        completes and not request.wants_prompt_logits
        for request, _, completes in scheduled
    )


def _step_input(scheduled: list[ScheduledRequest]) -> StepInput:
    step = StepInput([], [], [], [], [], [], [])
    for request, num_tokens, completes in scheduled:
        start, row = request.num_computed, len(step.token_ids)
        end = start + num_tokens
        step.token_ids.extend(request.ids(start, end))
        if end > request.num_known:  # its last token is on the device only
            step.from_last.append((row + num_tokens - 1, request.last_row))
            step.token_ids.append(0)
        step.positions.extend(range(start, end))
        step.query_lens.append(num_tokens)
        step.seq_lens.append(end)
        step.blocks.append(request.blocks)
        if request.wants_prompt_logits:
            step.logit_rows.extend(range(row, row + num_tokens))
        elif completes:
            step.logit_rows.append(row + num_tokens - 1)
    return step
