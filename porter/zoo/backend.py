"""vLLM's Transformers backend on the checkpoints of the zoo, for the same table.

The backend runs transformers' own modules inside vLLM (`model_impl="transformers"`). It
is held to what a port is held to: the logits of every position and 32 greedy tokens.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from porter.gap import CannotRun
from porter.zoo.listing import Specimen

BACKEND_SECONDS = 300


@dataclass(frozen=True)
class Backend:
    """What became of one model in the backend.

    status: exact, differs, can't run. reason: why, for the last two. logits_rel_rmse:
    None where it didn't run.
    """

    status: str
    reason: str = ""
    logits_rel_rmse: float | None = None


def measure_backend(specimen: Specimen) -> Backend:
    """The backend on the class's tiny config, eager, on one rank."""
    from porter.verify.comparison import compare
    from porter.verify.reference import class_of_module
    from porter.verify.trace import trace_engine
    from porter.verify.verification import differences, make_subject
    from porter.vllm_engine import VllmLLM

    with tempfile.TemporaryDirectory(prefix="porter-zoo-") as scratch:
        try:
            source = class_of_module(specimen.module, specimen.architecture)
            subject = make_subject(source, None, Path(scratch), engine="vllm")
            with VllmLLM(
                None,
                subject.model_dir,
                max_model_len=subject.max_model_len,
                model_impl="transformers",
            ) as llm:
                steps = len(subject.traces[0].tokens)
                traces = trace_engine(llm, subject.prompts, steps)
        except CannotRun as error:
            return Backend("can't run", str(error))
    comparison = compare(subject.traces, traces)
    differing = differences(comparison, "float32")
    status = "differs" if differing else "exact"
    return Backend(status, "; ".join(differing), comparison.logits_rel_rmse)
