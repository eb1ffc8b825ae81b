"""Convert and verify the attention decoders of one release of transformers."""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from porter.convert import convert
from porter.gap import CannotRun, NeedsConfig, Refused, UsageError
from porter.release import reading
from porter.verify.origin import find_source
from porter.verify.verification import (
    Subject,
    engines_for,
    make_subject,
    verify_subject,
)
from porter.zoo.category import category
from porter.zoo.listing import Specimen, list_zoo
from porter.zoo.processes import TaskFailed, run_each
from porter.zoo.sweep import convert_for

SECONDS = 600


@dataclass(frozen=True)
class Outcome:
    """What became of one class. status: verified, converted (verification wasn't asked
    for), refused, differs, unverified (the check could not run) or failed. tp: the number
    of ranks it was verified on. seconds: of the port's side of that."""

    architecture: str
    category: str
    status: str
    reason: str = ""
    rel_rmse: float | None = None
    seconds: float = 0.0
    tp: int | None = None


def decoders(release: Path) -> list[tuple[Specimen, str]]:
    """The classes of the release whose sequence mixing is attention alone."""
    with reading(release):
        list_zoo.cache_clear()
        found = [(specimen, category(specimen)) for specimen in list_zoo()]
    list_zoo.cache_clear()
    return [(s, kind) for s, kind in found if kind not in ("state", "unknown")]


def run_release(
    release: Path,
    names: list[str],
    *,
    convert_only: bool = False,
    ranks: Sequence[int] = (1,),
    workers: int = 1,
    finished: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """The outcomes of each decoder on each number of ranks, or of those named.

    One that is refused, or whose source doesn't run, has one outcome.
    """

    def work(item: tuple[Specimen, str]) -> list[Outcome]:
        with reading(release):
            return outcomes_of(*item, convert_only, ranks)

    todo = [d for d in decoders(release) if not names or d[0].architecture in names]
    out: dict[int, list[Outcome]] = {}
    for index, result in run_each(work, todo, workers=workers, timeout=SECONDS):
        if isinstance(result, TaskFailed):
            specimen, kind = todo[index]
            result = [Outcome(specimen.architecture, kind, "failed", str(result))]
        out[index] = result
        for each in result:
            finished(each)
    return [each for i in sorted(out) for each in out[i]]


def outcomes_of(
    specimen: Specimen, kind: str, convert_only: bool, ranks: Sequence[int]
) -> list[Outcome]:
    """One outcome for each number of ranks, of one port and one checkpoint."""
    made = Outcome(specimen.architecture, kind, "converted")
    try:
        text, file_name, by_config = _ported(specimen)
    except Refused as refusal:
        return [_refused(made, refusal)]
    except UsageError as error:
        return [replace(made, status="failed", reason=str(error))]
    if convert_only:
        return [made]
    with tempfile.TemporaryDirectory(prefix="porter-years-") as scratch:
        path = Path(scratch) / file_name
        path.write_text(text, encoding="utf-8")
        try:
            subject = make_subject(find_source(path, None), None, Path(scratch))
        except (CannotRun, UsageError) as error:
            return [replace(made, status="unverified", reason=str(error))]
        if by_config:  # the checkpoint's, of which the file is read alone
            config = subject.model_dir / "config.json"
            try:
                port = convert(specimen.path, arch=specimen.architecture, config=config)
            except Refused as refusal:
                return [_refused(made, refusal)]
            path.write_text(port.text, encoding="utf-8")
        return [_verified(made, path, subject, tp) for tp in ranks]


def _refused(made: Outcome, refusal: Refused) -> Outcome:
    gap = refusal.gaps[0]
    place = "/".join(Path(gap.file).parts[-2:])
    return replace(made, status="refused", reason=f"{place}:{gap.line}: {gap.what}")


def _verified(made: Outcome, path: Path, subject: Subject, tp: int) -> Outcome:
    """The outcome on `tp` ranks of the port at `path`."""
    started = time.perf_counter()
    try:
        engines = engines_for(path, subject)
        result = verify_subject(subject, engines, tp=tp, invariances=False)
    except (CannotRun, UsageError) as error:
        return replace(made, status="unverified", reason=str(error), tp=tp)
    return replace(
        made,
        status="verified" if result.passed else "differs",
        reason="; ".join(result.failures),
        rel_rmse=result.logits_rel_rmse,
        tp=tp,
        seconds=round(time.perf_counter() - started, 1),
    )


def _ported(specimen: Specimen) -> tuple[str, str, bool]:
    """The port's text and file name, and whether the config decides: it is that of the
    defaults then."""
    try:
        port = convert(specimen.path, arch=specimen.architecture)
    except NeedsConfig:
        file_name = specimen.path.name.removeprefix("modeling_")
        return convert_for(specimen, {}), file_name, True
    return port.text, port.file_name, False
