"""Latent attention in its other form: a cache of keys and values for every head.

A port has both, and the engine's cache decides. A run through the latent cache says
nothing about the other form, so that is run too, and what a token takes in each is told.
"""

from porter.gap import NoKernel
from porter.verify.engines import MakeEngine
from porter.verify.invariances import same_answers
from porter.verify.trace import Trace


def multi_head_form(
    make_engine: MakeEngine, traces: list[Trace], tolerance: float, tp: int
) -> tuple[bool, int | None] | None:
    """(whether it answers as `traces` do, bytes of a token in its cache), or None where
    the engine has no kernel for heads of such sizes. What else goes wrong is raised."""
    try:
        with make_engine(tensor_parallel_size=tp, use_mla=False) as llm:
            held = same_answers(llm, traces, tolerance)
            return held, llm.cache_bytes_per_token
    except NoKernel:
        return None
