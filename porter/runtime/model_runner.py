"""One rank's model: built, loaded, and run a step at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from porter.gap import CannotRun, UsageError
from porter.runtime.accounting import WeightReport
from porter.runtime.config import VllmConfig, set_current_vllm_config
from porter.runtime.decode_graphs import DecodeGraphs
from porter.runtime.device_batch import BlockTables, make_device_batch
from porter.runtime.distributed import Groups, use_groups
from porter.runtime.forward_context import AttentionMetadata, set_forward_context
from porter.runtime.kv_cache import bind_caches, choose_num_blocks, unbind_caches
from porter.runtime.layers.latent_attention import MLAAttention
from porter.runtime.layers.rotary_embedding import RotaryEmbedding, forget_ropes
from porter.runtime.loader import (
    load_weights,
    make_dummy_weights,
    retie_word_embeddings,
)
from porter.runtime.port import find_architecture, line_in_file, load_port
from porter.runtime.rope_fusion import fuse_qk_norm_rope_kvcache
from porter.runtime.sequence import IntermediateTensors
from porter.runtime.step import StepInput, largest_step


class ModelRunner:
    """Raises UsageError on a port or checkpoint that doesn't fit, CannotRun on what
    the bundled runtime lacks."""

    def __init__(
        self,
        port: str | Path,
        vllm_config: VllmConfig,
        *,
        groups: Groups,
        architecture: str | None,
        allow_pickle: bool,
        strict: bool,
    ) -> None:
        self.vllm_config = vllm_config
        self.groups = groups
        self.port = port
        self.device = vllm_config.device_config.device
        self.dtype = vllm_config.model_config.dtype
        self.block_size = vllm_config.cache_config.block_size
        self._max_num_seqs = vllm_config.scheduler_config.max_num_seqs
        self.graphs: DecodeGraphs | None = None
        self.last_tokens = torch.zeros(
            self._max_num_seqs, dtype=torch.int64, device=self.device
        )
        with use_groups(groups):
            self.model: Any = self._build(port, architecture)
            self.weight_report = self._load(allow_pickle, strict)
        if vllm_config.model_config.word_embeddings_untied_by_checkpoint:
            retie_word_embeddings(self.model)
        for module in self.model.modules():
            if isinstance(module, MLAAttention):
                module.process_weights_after_loading()  # it reads another's weight
        for module in self.model.modules():
            method = getattr(module, "quant_method", None)
            if method is not None:
                method.process_weights_after_loading(module)
        self.model.eval()
        self.model.requires_grad_(False)
        self._limit_length()
        if vllm_config.compilation_config.fuse_qk_norm_rope_kvcache:
            with use_groups(groups):
                fuse_qk_norm_rope_kvcache(self.model)

    def _build(self, port: str | Path, architecture: str | None) -> nn.Module:
        config = self.vllm_config.model_config.hf_config
        names = [architecture] if architecture else config.architectures
        model_class = find_architecture(load_port(port), names)
        forget_ropes()
        previous = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        try:
            with set_current_vllm_config(self.vllm_config), self.device:
                return model_class(vllm_config=self.vllm_config)
        except (CannotRun, UsageError) as error:
            raise type(error)(f"{port}: {error}") from error
        except Exception as error:
            kind = type(error).__name__
            raise UsageError(
                f"{port}: {model_class.__name__} can't be built from "
                f"{self.vllm_config.model_config.model}: {kind}: {error}"
            ) from error
        finally:
            torch.set_default_dtype(previous)

    def _load(self, allow_pickle: bool, strict: bool) -> WeightReport:
        if self.vllm_config.load_config.load_format == "dummy":
            make_dummy_weights(self.model)
            return WeightReport()
        folder = Path(self.vllm_config.model_config.model)
        return load_weights(
            self.model, folder, allow_pickle=allow_pickle, strict=strict
        )

    def _limit_length(self) -> None:
        """Sequences end where a table of rotations does."""
        model_config = self.vllm_config.model_config
        for module in self.model.modules():
            if isinstance(module, RotaryEmbedding):
                rows = len(module.cos_sin_cache)
                model_config.max_model_len = min(model_config.max_model_len, rows)

    def choose_num_blocks(self, asked: int | None) -> int:
        """Blocks for all sequences at full length, or what the memory allows."""
        peak = 0
        if asked is None and self.device.type == "cuda":
            peak = self._measure_peak()
        return choose_num_blocks(self.vllm_config, asked, peak)

    def bind_caches(self, num_blocks: int) -> None:
        bind_caches(self.vllm_config, num_blocks)
        width = -(-self.vllm_config.model_config.max_model_len // self.block_size)
        self._tables = BlockTables(self._max_num_seqs, width)

    def capture_graphs(self) -> None:
        """Make decode steps single launches, on GPUs; all ranks at the same time."""
        self.graphs = DecodeGraphs(
            self._logits_of_all, self._tables, self.block_size, self.last_tokens
        )
        self.graphs.capture(self._max_num_seqs)
        self._warm_up()

    def release_graphs(self) -> None:
        """Before the groups whose sums they have captured are left."""
        if self.graphs is not None:
            self.graphs.release()
            self.graphs = None

    def _warm_up(self) -> None:
        """Compile what steps of few tokens run: no request should wait for it."""
        budget = self.vllm_config.scheduler_config.max_num_batched_tokens
        longest = min(budget, self.vllm_config.model_config.max_model_len)
        for count in {min(n, longest) for n in (2, 40, 200, 400)}:
            blocks = [0] * -(-count // self.block_size)
            lens = [1, count] if self._max_num_seqs > 1 else [count]
            positions = [i for n in lens for i in range(n)]
            self.run(
                StepInput(
                    [0] * len(positions),
                    positions,
                    lens,
                    lens,
                    [blocks] * len(lens),
                    [0],
                )
            )

    @torch.inference_mode()
    def _measure_peak(self) -> int:
        """Bytes that the largest step takes besides weights and cache."""
        step = largest_step(
            self.vllm_config.scheduler_config.max_num_batched_tokens,
            self.vllm_config.model_config.max_model_len,
            self._max_num_seqs,
            self.block_size,
        )
        self.bind_caches(len(step.blocks[0]))
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        self.run(step)
        torch.cuda.synchronize(self.device)
        peak = torch.cuda.max_memory_allocated(self.device) - before
        unbind_caches(self.vllm_config)
        torch.cuda.empty_cache()
        return peak

    def keep_tokens(self, tokens: torch.Tensor) -> None:
        """What the step has chosen, for the next one to begin with, on all ranks."""
        kept = self.last_tokens[: len(tokens)]
        kept.copy_(tokens)
        self.groups.tp.broadcast(kept)

    def receive_tokens(self, count: int) -> None:
        """The other ranks' part of `keep_tokens`."""
        self.groups.tp.broadcast(self.last_tokens[:count])

    @torch.inference_mode()
    def run(self, step: StepInput) -> torch.Tensor | None:
        """Logits [len(logit_rows), vocab_size] on the last stage, None on others.

        After a captured step those of all sequences that the step completes or not:
        every sequence of a decode wants its own.
        """
        if self.graphs is not None and self.graphs.fits(step):
            logits = self.graphs.run(step)
            if len(step.logit_rows) < len(logits):
                logits = logits[step.logit_rows]
            return logits
        token_ids, positions, logit_rows, metadata = self._batch(step)
        pipeline = self.groups.pp
        received = None
        if not pipeline.is_first_rank:
            received = self._receive(len(step.token_ids))
        with self._port_at_work(), set_forward_context(metadata):
            hidden = self.model(token_ids, positions, received)
            if pipeline.is_last_rank:
                return self.model.compute_logits(hidden.index_select(0, logit_rows))
        for _, tensor in hidden.items():
            dist.send(tensor.contiguous(), pipeline.next_rank)
        return None

    @torch.inference_mode()
    def _logits_of_all(
        self,
        token_ids: torch.Tensor,
        positions: torch.Tensor,
        metadata: AttentionMetadata,
    ) -> torch.Tensor:
        with self._port_at_work(), set_forward_context(metadata):
            return self.model.compute_logits(self.model(token_ids, positions, None))

    def _batch(
        self, step: StepInput
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, AttentionMetadata]:
        if self.device.type == "cuda":
            batch = make_device_batch(
                step, self._tables, self.block_size, self.last_tokens, self.device
            )
            return batch.token_ids, batch.positions, batch.logit_rows, batch.metadata
        token_ids = torch.tensor(step.token_ids)
        for place, row in step.from_last:
            token_ids[place] = self.last_tokens[row]
        rows = torch.tensor(step.logit_rows, dtype=torch.long)
        positions = torch.tensor(step.positions)
        return token_ids, positions, rows, self._attention_metadata(step)

    @contextmanager
    def _port_at_work(self) -> Iterator[None]:
        """Groups are this rank's; what the port raises is told with its line."""
        try:
            with use_groups(self.groups):
                yield
        except (CannotRun, UsageError):
            raise
        except Exception as error:
            line = line_in_file(error, str(self.port))
            kind = type(error).__name__
            raise CannotRun(
                f"{self.port}:{line}: the port fails: {kind}: {error}"
            ) from error

    def _attention_metadata(self, step: StepInput) -> AttentionMetadata:
        starts, slots = [0], []
        width = max(len(blocks) for blocks in step.blocks)
        first_slots = []
        for query_len, seq_len, blocks in zip(
            step.query_lens, step.seq_lens, step.blocks, strict=True
        ):
            starts.append(starts[-1] + query_len)
            for position in range(seq_len - query_len, seq_len):
                block, offset = divmod(position, self.block_size)
                slots.append(blocks[block] * self.block_size + offset)
            in_a_row = blocks[-1] - blocks[0] == len(blocks) - 1
            consecutive = in_a_row and blocks == list(range(blocks[0], blocks[-1] + 1))
            first_slots.append(blocks[0] * self.block_size if consecutive else -1)
        tables = [blocks + [0] * (width - len(blocks)) for blocks in step.blocks]
        return AttentionMetadata(
            starts,
            step.seq_lens,
            sum(1 for n in step.query_lens if n == 1),
            torch.tensor(tables, device=self.device),
            first_slots,
            torch.tensor(slots, device=self.device),
        )

    def _receive(self, num_tokens: int) -> IntermediateTensors:
        tensors = self.model.make_empty_intermediate_tensors(
            num_tokens, self.dtype, self.device
        )
        for _, tensor in tensors.items():
            dist.recv(tensor, self.groups.pp.prev_rank)
        return tensors
