"""`verify`: the same weights and prompts through the source and through its port."""

import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from porter.gap import UsageError
from porter.verify.bisection import first_divergence, telling_tolerance
from porter.verify.cache_forms import multi_head_form
from porter.verify.checkpoint import Checkpoint, make_checkpoint, vocabulary
from porter.verify.choices import is_near, nearest_choice
from porter.verify.comparison import Comparison, compare, rel_rmse
from porter.verify.engines import MakeEngine, check_engine, fitting, make_engines
from porter.verify.invariances import TWO_RANKS, check_invariances
from porter.verify.origin import Source, find_source
from porter.verify.other_release import trace_release
from porter.verify.reference import load_reference, some, trace_reference
from porter.verify.result import VerifyResult
from porter.verify.trace import MAX_TOKENS, Trace, make_prompts, trace_engine

# Largest relative RMSE of the logits. Exact arithmetic is checked in float32 alone; the
# other types round every product, and are held to the field's criterion beside it.
TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 8e-2}


@dataclass(frozen=True)
class Subject:
    """What is verified: a checkpoint, its reference model, and the reference's traces.

    One subject serves several engines: other schedules, other numbers of ranks.
    """

    model_dir: Path
    reference: Any  # None where it ran in another process
    traces: list[Trace]
    checkpoint: Checkpoint | None = None

    @property
    def prompts(self) -> list[list[int]]:
        return [trace.prompt for trace in self.traces]

    @property
    def max_model_len(self) -> int:
        """Tokens of the longest prompt and its continuation."""
        return max(len(trace.prompt) + len(trace.tokens) for trace in self.traces)


def verify(
    port_path: Path | str,
    *,
    against: str = "hf",
    model_dir: Path | str | None = None,
    engine: str = "porter",
    tp: int = 1,
    pp: int = 1,
    ep: bool = False,
    dtype: str = "float32",
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    hf_factory: Callable[[Path], Any] | None = None,
    hf_module_text: str | None = None,
    config_overrides: Mapping[str, Any] | None = None,
    seed: int = 0,
    invariances: bool = True,
    max_tokens: int = MAX_TOKENS,
    device: str | None = None,
) -> VerifyResult:
    """Compare the port with the HuggingFace model that it was made from.

    model_dir: a checkpoint; without it a tiny random one is made from the source's
    config class, with `config_overrides` and `seed`. ep: each of the tp ranks has some
    of the experts, whole. hf_factory(model_dir) gives
    another reference model; hf_module_text is run in place of the source's file.
    device: "cpu" or "cuda", of the bundled runtime; the reference is computed on the CPU.
    Raises UsageError (mistakes of the caller), CannotRun (and why).
    """
    started = time.perf_counter()
    port = Path(port_path)
    _check_choices(against, engine, dtype, device)
    with tempfile.TemporaryDirectory(prefix="porter-verify-") as scratch:
        source = find_source(
            port,
            Path(model_dir) if model_dir else None,
            trust_remote_code=trust_remote_code,
            source_text=hf_module_text,
        )
        subject = make_subject(
            source,
            Path(model_dir) if model_dir else None,
            Path(scratch),
            config_overrides=config_overrides,
            seed=seed,
            hf_factory=hf_factory,
            allow_pickle=allow_pickle,
            max_tokens=max_tokens,
            engine=engine,
        )
        engines = engines_for(
            port,
            subject,
            engine,
            dtype=dtype,
            pipeline_parallel_size=pp,
            enable_expert_parallel=ep,
            trust_remote_code=trust_remote_code,
            allow_pickle=allow_pickle,
            device=device,
        )
        return verify_subject(
            subject,
            engines,
            engine=engine,
            tp=tp,
            pp=pp,
            ep=ep,
            dtype=dtype,
            invariances=invariances,
            two_ranks=_spread_on(device),
            started=started,
        )


def _check_choices(against: str, engine: str, dtype: str, device: str | None) -> None:
    if against != "hf":
        raise UsageError(f"--against {against}: only hf is known")
    if dtype not in TOLERANCE:
        raise UsageError(f"--dtype {dtype}: one of {', '.join(TOLERANCE)} was expected")
    if device and engine == "vllm":
        raise UsageError("--device: vLLM runs on what it was built for")
    check_engine(engine)


def make_subject(
    source: Source | type,
    model_dir: Path | None,
    scratch: Path,
    *,
    config_overrides: Mapping[str, Any] | None = None,
    seed: int = 0,
    hf_factory: Callable[[Path], Any] | None = None,
    allow_pickle: bool = False,
    max_tokens: int = MAX_TOKENS,
    engine: str = "porter",
) -> Subject:
    """The reference's answers for `model_dir`, or a tiny checkpoint in `scratch`.

    engine: whose kernels the sizes of a tiny checkpoint have to fit.
    """
    checkpoint = None
    source = source if isinstance(source, Source) else Source(source)
    if source.release is not None:
        model_dir, traces, checkpoint = trace_release(
            source.release,
            source.module,
            source.architecture,
            source.code,
            model_dir,
            scratch,
            config_overrides=config_overrides,
            seed=seed,
            allow_pickle=allow_pickle,
            max_tokens=max_tokens,
        )
        return Subject(model_dir, None, traces, checkpoint)
    if model_dir is None:
        checkpoint = make_checkpoint(
            source.model_class,
            scratch,
            config_overrides=fitting(engine, source.model_class, config_overrides),
            seed=seed,
            code=source.code,
        )
        model_dir = checkpoint.folder
    elif config_overrides:
        raise UsageError("config overrides are for checkpoints that porter makes")
    if hf_factory is not None:
        reference = hf_factory(model_dir)
    else:
        reference = load_reference(
            source.model_class, model_dir, allow_pickle=allow_pickle
        )
    prompts = make_prompts(vocabulary(reference.config))
    traces = trace_reference(reference, prompts, max_tokens)
    return Subject(model_dir, reference, traces, checkpoint)


def engines_for(
    port: Path, subject: Subject, engine: str = "porter", **fixed: Any
) -> MakeEngine:
    """Makes engines for one port and one checkpoint.

    They are made for the length that is verified: where the frequencies of a rope
    depend on the length, a port may hold up to some length only.
    """
    given = {"max_model_len": subject.max_model_len, **fixed}
    return make_engines(engine, port, subject.model_dir, **given)


def verify_subject(
    subject: Subject,
    make_engine: MakeEngine,
    *,
    engine: str = "porter",
    tp: int = 1,
    pp: int = 1,
    ep: bool = False,
    dtype: str = "float32",
    invariances: bool = True,
    two_ranks: Collection[str] = tuple(TWO_RANKS),
    started: float | None = None,
) -> VerifyResult:
    """All criteria for one subject and the engines that `make_engine` makes.

    engine: their kind. invariances: whether to check them too, on two ranks those of
    `two_ranks`. vLLM takes half a minute to start on several ranks, so two ranks are
    left to a run that asks for them, and such a run to the schedule that it has.
    """
    started = time.perf_counter() if started is None else started
    with make_engine(tensor_parallel_size=tp) as llm:
        traces = trace_engine(llm, subject.prompts, len(subject.traces[0].tokens))
        weights, fused = llm.weight_report, dict(llm.fused_modules())
        kind = "latent_attention" if fused.get("latent_attention") else "attention"
        cache = {kind: llm.cache_bytes_per_token}
    if ep and not fused.get("experts"):
        raise UsageError("the port has no experts to spread over the ranks")
    comparison = compare(subject.traces, traces)
    failures = unaccounted(weights)
    divergence = None
    if differing := differences(comparison, dtype):
        divergence = _bisect(subject, traces, make_engine)
        failures += [*differing, *_near_choices(subject.traces)]
    held = {}
    if invariances and not failures:
        tolerance = TOLERANCE[dtype]
        in_vllm = engine == "vllm"
        held = check_invariances(
            make_engine,
            traces,
            tolerance,
            tp=tp,
            two_ranks=() if in_vllm else two_ranks,
            schedules=not in_vllm or tp * pp == 1,
            compiled=in_vllm,
            experts=bool(fused.get("experts")),
        )
    if (
        fused.get("latent_attention") and not failures
    ):  # half of the port, not a schedule
        form = multi_head_form(make_engine, traces, TOLERANCE[dtype], tp)
        if form is not None:
            held["multi_head"], cache["attention"] = form
    failures += [f"not the same with {name}" for name, ok in held.items() if not ok]
    return VerifyResult(
        passed=not failures,
        engine=engine,
        tp=tp,
        pp=pp,
        ep=ep,
        dtype=dtype,
        logits_rel_rmse=comparison.logits_rel_rmse,
        tokens_equal=comparison.tokens_equal,
        logprobs_close=comparison.logprobs_close,
        first_divergence=divergence,
        unused_weights=sorted(weights.unused),
        uninitialised_weights=sorted(weights.uninitialised),
        fused=fused,
        cache_bytes_per_token=cache,
        seconds=round(time.perf_counter() - started, 3),
        logprobs_diff=comparison.logprobs_diff,
        ties=[str(tie) for tie in comparison.ties],
        invariances=held,
        failures=failures,
        checkpoint=_describe(subject.checkpoint),
    )


def _spread_on(device: str | None) -> Collection[str]:
    """The checks on two ranks that a device has room for: each takes a GPU."""
    alone = device == "cuda" and torch.cuda.device_count() < 2
    return () if alone else tuple(TWO_RANKS)


def _bisect(
    subject: Subject, traces: list[Trace], make_engine: MakeEngine
) -> str | None:
    """Where the prompt that differs most goes wrong, on one rank."""
    if subject.reference is None:
        return None
    errors = [
        rel_rmse(ours.logits, theirs.logits)
        for ours, theirs in zip(subject.traces, traces, strict=True)
    ]
    worst_first = sorted(range(len(errors)), key=lambda i: -errors[i])
    with make_engine(tensor_parallel_size=1, pipeline_parallel_size=1) as llm:
        for i in worst_first:
            tolerance = telling_tolerance(errors[i])
            prompt = subject.prompts[i]
            path = first_divergence(subject.reference, llm, prompt, tolerance)
            if path is not None:
                return path
    return None


def _near_choices(traces: list[Trace]) -> list[str]:
    """What else may be why a model with such weights differs, in words."""
    choice = nearest_choice([trace.choice for trace in traces])
    if not is_near(choice):
        return []
    return [
        f"the source chooses the k largest of some values {choice:.0e} from a tie: "
        "rounding may choose otherwise (try other weights)"
    ]


def _describe(checkpoint: Checkpoint | None) -> dict[str, Any]:
    if checkpoint is None:
        return {}
    return {
        "seed": checkpoint.seed,
        "parameters": checkpoint.parameters,
        "margin": round(checkpoint.margin, 6),
        "distinct": checkpoint.distinct,
        **({} if checkpoint.choice is None else {"choices": checkpoint.choice}),
    }


def unaccounted(weights: Any) -> list[str]:
    """What of the engine's weight report doesn't pass, in words."""
    found = []
    if weights.unused:
        found.append(f"unused weights: {some(sorted(weights.unused))}")
    if weights.uninitialised:
        names = some(sorted(weights.uninitialised))
        found.append(f"parameters that got no weight: {names}")
    return found


def differences(comparison: Comparison, dtype: str) -> list[str]:
    """What of the comparison doesn't pass, in words. Written so that NaN fails."""
    found = []
    tolerance = TOLERANCE[dtype]
    if not comparison.logits_rel_rmse <= tolerance:
        found.append(
            f"relative RMSE of the logits {comparison.logits_rel_rmse:.1e}, "
            f"{tolerance:.0e} is allowed"
        )
    if not comparison.logprobs_close:
        found.append("logprobs: a token is not in the other's top 5")
    if dtype != "float32":
        return found
    if not comparison.tokens_equal_or_tied:
        found.append(f"greedy tokens differ: {comparison.tokens_equal}")
    elif not comparison.ties and not comparison.logprobs_diff <= 10 * tolerance:
        found.append(
            f"log probabilities of decoded tokens are {comparison.logprobs_diff:.1e} "
            "apart"
        )
    return found
