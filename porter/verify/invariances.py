"""What must not change a model's answer: how the engine schedules and spreads it.

One comparison with the reference can't see a fault that only shows when a prompt
is cut in chunks, shares its batch, or is computed on two ranks. Here the same
prompts go through engines that are set up differently, and the tokens must stay.
"""

from collections.abc import Collection
from typing import Any

from porter.gap import CannotRun, UsageError
from porter.verify.comparison import TIE, parting, rel_rmse, tie_gap
from porter.verify.engines import MakeEngine
from porter.verify.trace import Trace, generate

CHUNK = 13  # tokens a step: less than most prompts, not a divisor of their lengths

TWO_RANKS: dict[str, dict[str, Any]] = {
    "tp2": {"tensor_parallel_size": 2},
    "pp2": {"pipeline_parallel_size": 2},
    # A mixture of experts can have its experts spread whole, besides being sharded.
    "ep2": {"tensor_parallel_size": 2, "enable_expert_parallel": True},
}


def check_invariances(
    make_engine: MakeEngine,
    traces: list[Trace],
    tolerance: float,
    *,
    tp: int = 1,
    two_ranks: Collection[str] = tuple(TWO_RANKS),
    schedules: bool = True,
    compiled: bool = False,
    experts: bool = False,
) -> dict[str, bool]:
    """Run the prompts of `traces` again under other schedules and on two ranks.

    make_engine(**options) gives an engine of the same port and weights. Returns
    name -> held. two_ranks: which of TWO_RANKS; they are left out where the model can't be
    split so, or where `traces` are from several ranks themselves. schedules: whether to
    try other ones. compiled: whether to run under torch.compile too, which the engine must
    have. experts: whether there are any to spread.
    """
    held = {}
    if schedules:
        held = {
            "mixed_batch": _mixed_batch(make_engine, traces, tp),
            "staggered": _staggered(make_engine, traces, tp),
            "chunked_prefill": _chunked_prefill(make_engine, traces, tolerance, tp),
        }
    if compiled:
        held["compiled"] = _compiled(make_engine, traces, tolerance, tp)
    for name in two_ranks if tp == 1 else ():
        if name != "ep2" or experts:
            split = _two_ranks(make_engine, traces, tolerance, TWO_RANKS[name])
            if split is not None:
                held[name] = split
    return held


def _mixed_batch(make_engine: MakeEngine, traces: list[Trace], tp: int) -> bool:
    """All prompts at once: decoding rows of different lengths share their steps."""
    with make_engine(tensor_parallel_size=tp) as llm:
        return _same_tokens(llm, traces)


def _staggered(make_engine: MakeEngine, traces: list[Trace], tp: int) -> bool:
    """Two running at most: a prefill enters while another prompt is decoding.

    The prompts come twice, so blocks of the cache are given back and used again.
    """
    with make_engine(tensor_parallel_size=tp, max_num_seqs=2) as llm:
        return _same_tokens(llm, traces + traces[::-1])


def _chunked_prefill(
    make_engine: MakeEngine, traces: list[Trace], tolerance: float, tp: int
) -> bool:
    """Prompts read CHUNK tokens a step, the later chunks through the paged cache."""
    with make_engine(tensor_parallel_size=tp, max_num_batched_tokens=CHUNK) as llm:
        return same_answers(llm, traces, tolerance)


def _compiled(
    make_engine: MakeEngine, traces: list[Trace], tolerance: float, tp: int
) -> bool:
    """The graph that torch.compile made of the model, in place of its code."""
    with make_engine(tensor_parallel_size=tp, compiled=True) as llm:
        return same_answers(llm, traces, tolerance)


def _two_ranks(
    make_engine: MakeEngine,
    traces: list[Trace],
    tolerance: float,
    options: dict[str, Any],
) -> bool | None:
    try:
        engine = make_engine(**options)
    except (UsageError, CannotRun):
        return None  # heads that don't divide: said to a user who asks for two ranks
    with engine as llm:
        return same_answers(llm, traces, tolerance)


def same_answers(llm: Any, traces: list[Trace], tolerance: float) -> bool:
    """Whether an engine gives the tokens of `traces`, and logits within the tolerance."""
    return _same_tokens(llm, traces) and _same_logits(llm, traces, tolerance)


def _same_tokens(llm: Any, traces: list[Trace]) -> bool:
    """Whether all prompts together get the tokens that each of them got, ties aside."""
    outputs = generate(llm, [t.prompt for t in traces], len(traces[0].tokens))
    return all(
        list(output.token_ids) == trace.tokens
        or _tied(llm, trace, list(output.token_ids))
        for output, trace in zip(outputs, traces, strict=True)
    )


def _tied(llm: Any, trace: Trace, tokens: list[int]) -> bool:
    """Whether the continuations part at two tokens that the model holds as equal."""
    step = parting(trace.tokens, tokens)
    if step is None or step >= min(len(trace.tokens), len(tokens)):
        return False
    logits = llm.prefill_logits([trace.prompt + trace.tokens[:step]])[0][-1].float()
    return tie_gap(logits, trace.tokens[step], tokens[step]) <= TIE


def _same_logits(llm: Any, traces: list[Trace], tolerance: float) -> bool:
    """Whether every prompt's relative RMSE is within the tolerance."""
    logits = llm.prefill_logits([trace.prompt for trace in traces])
    return all(
        rel_rmse(trace.logits, got.float()) <= tolerance
        for trace, got in zip(traces, logits, strict=True)
    )
