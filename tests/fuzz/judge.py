"""One mutant through HuggingFace, porter and the bundled runtime."""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from porter.gap import CannotRun, Refused, UsageError
from porter.verify.comparison import compare
from porter.verify.quiet import quiet_transformers
from porter.verify.reference import class_of_module, class_of_text, trace_reference
from porter.verify.tiny_config import tiny_configs
from porter.verify.verification import Subject, differences
from porter.zoo.listing import Specimen
from tests.fuzz.mutants import Mutant

# Words of the table, best first. A mutant that HuggingFace can't run says nothing.
PORTED, REFUSED, INVALID = "ported", "refused", "not runnable"
BROKEN, CRASHED, WRONG = "port doesn't run", "convert crashed", "SILENTLY WRONG"
# The changed model doesn't pass for itself once its weights are rounded otherwise.
ROUNDING = "ill-conditioned"
# Of a few operations in a row; how often the weights are drawn.
ROUNDINGS, DRAWS = 4, 4


@dataclass(frozen=True)
class Case:
    """A specimen, one change of its file, and what differs from its tiny config."""

    specimen: Specimen
    mutant: Mutant
    overrides: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    case: Case
    verdict: str
    detail: str = ""
    rmse: float | None = None


def executed_lines(specimen: Specimen, overrides: dict[str, Any]) -> set[int]:
    """Lines of the specimen's file that run when the model is built and reads a prompt."""
    model_class: Any = class_of_module(specimen.module, specimen.architecture)
    file = str(specimen.path)
    lines: set[int] = set()

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        if frame.f_code.co_filename != file:
            return None
        lines.add(frame.f_lineno)
        return trace

    with quiet_transformers():
        for config in tiny_configs(model_class.config_class, overrides):
            config._attn_implementation = "eager"
            sys.settrace(trace)
            try:
                model = model_class(config).eval()
                with torch.inference_mode():
                    model(torch.arange(3, 40).unsqueeze(0))
                return lines
            except Exception:  # whatever a foreign model raises on a bad shape
                continue
            finally:
                sys.settrace(None)
    raise CannotRun(f"{specimen.architecture} doesn't run with a tiny config")


def well_conditioned(subject: Subject) -> bool:
    """Whether the reference passes for itself, its weights changed by a few roundings.

    Where it doesn't (a softmax of huge scores, experts chosen by near ties, 1 / x around
    zero), a comparison in fp32 says nothing about a port. The reference is left changed.
    """
    draw = torch.Generator().manual_seed(0)
    parameters = [p for p in subject.reference.parameters() if p.is_floating_point()]
    kept = [p.detach().clone() for p in parameters]
    for _ in range(DRAWS):
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                signs = torch.rand(value.shape, generator=draw) * 2 - 1
                parameter.copy_(value * (1 + signs * ROUNDINGS * torch.finfo().eps))
        again = trace_reference(subject.reference, subject.prompts)
        if differences(compare(subject.traces, again), "float32"):
            return False
    return True


def judge(case: Case) -> Outcome:
    """Convert the changed text; a port has to equal the changed model."""
    from porter.convert import convert

    specimen = case.specimen
    text = case.mutant.apply(specimen.path.read_text(encoding="utf-8"))
    try:
        port = convert(specimen.path, arch=specimen.architecture, text=text)
    except Refused as refused:
        gap = refused.gaps[0]
        fault = "a fault of porter's" in gap.advice
        verdict = CRASHED if fault else REFUSED
        return Outcome(case, verdict, f":{gap.line}: {gap.what}")
    except Exception as error:
        return Outcome(case, CRASHED, f"{type(error).__name__}: {error}")
    with tempfile.TemporaryDirectory(prefix="porter-fuzz-") as scratch:
        return _compare(case, text, port.text, Path(scratch))


def _compare(case: Case, text: str, port_text: str, scratch: Path) -> Outcome:
    from porter.verify.verification import engines_for, make_subject, verify_subject

    specimen = case.specimen
    port = scratch / f"{specimen.path.parent.name}.py"
    port.write_text(port_text, encoding="utf-8")
    try:
        changed = class_of_text(text, specimen.module, specimen.architecture)
        subject = make_subject(
            changed, None, scratch / "checkpoint", config_overrides=case.overrides
        )
    except Exception as error:  # the change broke the model itself
        return Outcome(case, INVALID, f"{type(error).__name__}: {error}")
    if not all(bool(trace.logits.isfinite().all()) for trace in subject.traces):
        return Outcome(case, INVALID, "its logits aren't finite")
    try:
        engines = engines_for(port, subject)
        result = verify_subject(subject, engines, invariances=False)
    except (CannotRun, UsageError) as error:
        stops = "can't be built" in str(error) and "ValueError" in str(error)
        return Outcome(case, REFUSED if stops else BROKEN, str(error))
    except Exception as error:
        return Outcome(case, BROKEN, f"{type(error).__name__}: {error}")
    verdict, detail = PORTED, "; ".join(result.failures)
    if not result.passed:
        accounted = not (result.unused_weights or result.uninitialised_weights)
        rounding = accounted and not well_conditioned(subject)
        verdict = ROUNDING if rounding else WRONG
    return Outcome(case, verdict, detail, result.logits_rel_rmse)
