"""One verdict a mutation: the port follows the mutated source, or porter refused it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch

from porter.gap import Refused, UsageError
from tests.faithful.mutation import Mutation
from tests.faithful.reference import Reference, reference
from tests.reference.sources import source_path
from tests.reference.tiny import prompts, rel_rmse

TOLERANCE = 1e-4  # relative RMSE of fp32 logits, the project's bar
CHUNK = 48  # tokens a step, so that the longest prompt is prefilled in three

Convert = Callable[..., Any]
# (port file, checkpoint folder, prompts, tp) -> logits per prompt, [tokens, vocab]
Run = Callable[[Path, Path, list[list[int]], int], list[torch.Tensor]]


class Verdict(Enum):
    """What became of a mutation, in the words of the report."""

    PORTED = "ported"
    REFUSED = "refused"
    ELSEWHERE = "refused elsewhere"
    SILENTLY_WRONG = "SILENTLY WRONG"
    CRASHED = "convert crashed"
    BROKEN = "port doesn't run"


@dataclass(frozen=True)
class Judgement:
    """A verdict and its evidence. rmse: the worst prompt's, None where nothing ran."""

    mutation: Mutation
    verdict: Verdict
    tp: int = 1
    rmse: float | None = None
    detail: str = ""
    seconds: float = 0.0


def convert_source(path: Path, text: str) -> Any:
    """The compiler under test."""
    from porter.convert import convert

    return convert(path, text=text)


def run_port(
    port: Path, checkpoint: Path, ids: list[list[int]], tp: int
) -> list[torch.Tensor]:
    """Logits of a port on the bundled runtime, prefilled in chunks of CHUNK tokens.

    Raises RuntimeError where the runtime didn't split the model over `tp` ranks.
    """
    from porter.runtime.llm import LLM

    with LLM(
        port,
        checkpoint,
        dtype="float32",
        tensor_parallel_size=tp,
        device="cpu",
        max_num_batched_tokens=CHUNK,
        max_num_seqs=4,
    ) as llm:
        ranks = {
            layer.tp_size for layer in llm.model.modules() if hasattr(layer, "tp_size")
        }
        if ranks - {tp}:
            raise RuntimeError(f"asked for tp {tp}, ran with {ranks}")
        return [logits.float() for logits in llm.prefill_logits(ids)]


def judge(
    mutation: Mutation,
    folder: Path,
    convert: Convert = convert_source,
    run: Run = run_port,
    tp_sizes: tuple[int, ...] = (1,),
) -> Judgement:
    """Convert the mutated text and hold the port against the mutated HF model.

    folder: an empty folder for the port and the checkpoint. Where several tp sizes are
    asked for, the verdict is of the first that isn't PORTED, or of the last.
    """
    start = time.perf_counter()
    with reference(mutation) as mutated:
        result = _judge(mutation, mutated, folder, convert, run, tp_sizes)
    seconds = time.perf_counter() - start
    return Judgement(**{**vars(result), "seconds": seconds})


def _judge(
    mutation: Mutation,
    mutated: Reference,
    folder: Path,
    convert: Convert,
    run: Run,
    tp_sizes: tuple[int, ...],
) -> Judgement:
    try:
        port = convert(source_path(mutation.model), text=mutated.text)
    except Refused as refused:
        return _refusal(mutation, mutated, refused)
    except Exception as error:  # a crash is a finding, and the suite must go on
        return Judgement(mutation, Verdict.CRASHED, detail=_brief(error))
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / port.file_name
    file.write_text(port.text, encoding="utf-8")
    checkpoint = mutated.save(folder / "checkpoint")
    result = Judgement(mutation, Verdict.BROKEN)
    for tp in tp_sizes:
        result = _comparison(mutation, mutated, file, checkpoint, run, tp)
        if result.verdict is not Verdict.PORTED:
            break
    return result


def _refusal(mutation: Mutation, mutated: Reference, refused: Refused) -> Judgement:
    first = refused.gaps[0]
    detail = f"{first.line}: {first.what}"
    lines = {gap.line for gap in refused.gaps}
    if mutation.mixes_tokens and not lines & mutated.lines:
        wanted = ", ".join(map(str, sorted(mutated.lines)))
        return Judgement(
            mutation, Verdict.ELSEWHERE, detail=f"not at {wanted} but {detail}"
        )
    return Judgement(mutation, Verdict.REFUSED, detail=detail)


def _comparison(
    mutation: Mutation,
    mutated: Reference,
    file: Path,
    checkpoint: Path,
    run: Run,
    tp: int,
) -> Judgement:
    try:
        got = run(file, checkpoint, prompts(), tp)
    except UsageError as error:
        if "can't be built" in str(error) and "ValueError" in str(error):
            # the port's own check of its config: it stops where it would be wrong
            return Judgement(mutation, Verdict.REFUSED, tp=tp, detail=_brief(error))
        return Judgement(mutation, Verdict.BROKEN, tp=tp, detail=_brief(error))
    except Exception as error:  # same: loud, so not silent, but a finding
        return Judgement(mutation, Verdict.BROKEN, tp=tp, detail=_brief(error))
    pairs = zip(got, mutated.logits, strict=True)
    worst = max(rel_rmse(mine, theirs) for mine, theirs in pairs)
    verdict = Verdict.PORTED if worst <= TOLERANCE else Verdict.SILENTLY_WRONG
    return Judgement(mutation, verdict, tp=tp, rmse=worst)


def _brief(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
