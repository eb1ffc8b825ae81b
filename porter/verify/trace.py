"""What one engine computed for one prompt, in the same form for every engine."""

from dataclasses import dataclass
from typing import Any

import torch

TOP = 5  # candidates a step, as many as the field's own criterion looks at
MAX_TOKENS = 32
PROMPT_LENGTHS = (5, 33, 97)


@dataclass(frozen=True)
class Trace:
    """Prefill logits and a greedy continuation of one prompt.

    logits: [num_tokens, vocab_size] float32, every position of the prompt.
    tokens: the greedy continuation. logprobs: a step's most likely tokens and
    their natural log probabilities (at least TOP of them). steps: logits of the
    steps, [len(tokens), vocab_size] float32, or None where the engine keeps none.
    choice: how near a tie the model chose (`choices`), None where that isn't known.
    """

    prompt: list[int]
    logits: torch.Tensor
    tokens: list[int]
    logprobs: list[dict[int, float]]
    steps: torch.Tensor | None = None
    choice: float | None = None


def make_prompts(
    vocab_size: int, lengths: tuple[int, ...] = PROMPT_LENGTHS, seed: int = 0
) -> list[list[int]]:
    """Random prompts of the given lengths in tokens, the same for the same seed."""
    draw = torch.Generator().manual_seed(seed)
    return [
        torch.randint(0, vocab_size, (length,), generator=draw).tolist()
        for length in lengths
    ]


def trace_engine(
    llm: Any, prompts: list[list[int]], max_tokens: int = MAX_TOKENS
) -> list[Trace]:
    """Traces of an engine with the bundled runtime's `LLM` methods, one at a time.

    Each prompt is alone in the engine; `porter.verify.invariances` mixes them.
    """
    traces = []
    for prompt in prompts:
        output = generate(llm, [prompt], max_tokens, logprobs=TOP)[0]
        traces.append(
            Trace(
                prompt=prompt,
                logits=llm.prefill_logits([prompt])[0].float(),
                tokens=list(output.token_ids),
                logprobs=[dict(step) for step in output.logprobs],
            )
        )
    return traces


def generate(
    llm: Any, prompts: list[list[int]], max_tokens: int, logprobs: int | None = None
) -> list[Any]:
    """Greedy continuations of all prompts in one call, end tokens ignored."""
    from porter.runtime.llm import SamplingParams

    params = SamplingParams(
        max_tokens=max_tokens, temperature=0.0, logprobs=logprobs, ignore_eos=True
    )
    return list(llm.generate(prompts, params))
