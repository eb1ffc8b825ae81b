"""One rank's model: built, loaded, and run a step at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from porter.gap import CannotRun, UsageError
from porter.runtime.accounting import WeightReport
from porter.runtime.config import VllmConfig, set_current_vllm_config
from porter.runtime.distributed import Groups, use_groups
from porter.runtime.forward_context import AttentionMetadata, set_forward_context
from porter.runtime.kv_cache import bind_caches
from porter.runtime.layers.rotary_embedding import RotaryEmbedding, forget_ropes
from porter.runtime.loader import load_weights, retie_word_embeddings
from porter.runtime.port import find_architecture, line_in_file, load_port
from porter.runtime.sequence import IntermediateTensors


@dataclass(frozen=True)
class StepInput:
    """The batch of one step as plain lists, so that it travels between processes.

    token_ids, positions: of all tokens. query_lens, seq_lens: of each sequence, its
    tokens in this step and in the cache after it. blocks: of each sequence.
    logit_rows: tokens whose logits are wanted.
    """

    token_ids: list[int]
    positions: list[int]
    query_lens: list[int]
    seq_lens: list[int]
    blocks: list[list[int]]
    logit_rows: list[int] = field(default_factory=list)


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
        with use_groups(groups):
            self.model: Any = self._build(port, architecture)
            self.weight_report: WeightReport = load_weights(
                self.model,
                Path(vllm_config.model_config.model),
                allow_pickle=allow_pickle,
                strict=strict,
            )
        if vllm_config.model_config.word_embeddings_untied_by_checkpoint:
            retie_word_embeddings(self.model)
        for module in self.model.modules():
            method = getattr(module, "quant_method", None)
            if method is not None:
                method.process_weights_after_loading(module)
        self.model.eval()
        self.model.requires_grad_(False)
        self._limit_length()

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

    def _limit_length(self) -> None:
        """Sequences end where a table of rotations does."""
        model_config = self.vllm_config.model_config
        for module in self.model.modules():
            if isinstance(module, RotaryEmbedding):
                rows = len(module.cos_sin_cache)
                model_config.max_model_len = min(model_config.max_model_len, rows)

    def bind_caches(self, num_blocks: int) -> None:
        bind_caches(self.vllm_config, num_blocks)

    @torch.inference_mode()
    def run(self, step: StepInput) -> torch.Tensor | None:
        """Logits [len(logit_rows), vocab_size] on the last stage, None on others."""
        input_ids = torch.tensor(step.token_ids, device=self.device)
        positions = torch.tensor(step.positions, device=self.device)
        pipeline = self.groups.pp
        received = None
        if not pipeline.is_first_rank:
            received = self._receive(len(step.token_ids))
        metadata = self._attention_metadata(step)
        with self._port_at_work(), set_forward_context(metadata):
            hidden = self.model(input_ids, positions, received)
            if pipeline.is_last_rank:
                rows = torch.tensor(
                    step.logit_rows, dtype=torch.long, device=self.device
                )
                return self.model.compute_logits(hidden.index_select(0, rows))
        for _, tensor in hidden.items():
            dist.send(tensor.contiguous(), pipeline.next_rank)
        return None

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
