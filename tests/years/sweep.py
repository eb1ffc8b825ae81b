"""Convert and verify the attention decoders of one release of transformers."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from porter.convert import convert
from porter.gap import CannotRun, NeedsConfig, Refused, UsageError
from porter.release import reading
from porter.verify import verify
from porter.zoo.category import category
from porter.zoo.listing import Specimen, list_zoo
from porter.zoo.processes import TaskFailed, run_each
from porter.zoo.sweep import convert_for

SECONDS = 600


@dataclass(frozen=True)
class Outcome:
    """What became of one class. status: verified, converted (verification wasn't asked
    for), refused, differs, unverified (the check could not run) or failed."""

    architecture: str
    category: str
    status: str
    reason: str = ""
    rel_rmse: float | None = None
    seconds: float = 0.0


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
    tp: int = 1,
    invariances: bool = False,
    workers: int = 1,
    finished: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """An outcome for each decoder, or for those whose architecture is named."""

    def work(item: tuple[Specimen, str]) -> Outcome:
        with reading(release):
            return outcome(*item, convert_only, tp, invariances)

    todo = [d for d in decoders(release) if not names or d[0].architecture in names]
    out: dict[int, Outcome] = {}
    for index, result in run_each(work, todo, workers=workers, timeout=SECONDS):
        if isinstance(result, TaskFailed):
            specimen, kind = todo[index]
            result = Outcome(specimen.architecture, kind, "failed", str(result))
        out[index] = result
        finished(result)
    return [out[i] for i in sorted(out)]


def outcome(
    specimen: Specimen, kind: str, convert_only: bool, tp: int, invariances: bool
) -> Outcome:
    name, started = specimen.architecture, time.perf_counter()

    def made(status: str, reason: str = "", rmse: float | None = None) -> Outcome:
        seconds = round(time.perf_counter() - started, 1)
        return Outcome(name, kind, status, reason, rmse, seconds)

    try:
        text, file_name = _ported(specimen)
    except Refused as refusal:
        gap = refusal.gaps[0]
        place = "/".join(Path(gap.file).parts[-2:])
        return made("refused", f"{place}:{gap.line}: {gap.what}")
    except UsageError as error:
        return made("failed", str(error))
    if convert_only:
        return made("converted")
    with tempfile.TemporaryDirectory(prefix="porter-years-") as scratch:
        path = Path(scratch) / file_name
        path.write_text(text, encoding="utf-8")
        try:
            result = verify(path, tp=tp, invariances=invariances)
        except (CannotRun, UsageError) as error:
            return made("unverified", str(error))
    status = "verified" if result.passed else "differs"
    return made(status, "; ".join(result.failures), result.logits_rel_rmse)


def _ported(specimen: Specimen) -> tuple[str, str]:
    """The port's text and file name; where the config decides, that of the defaults."""
    try:
        port = convert(specimen.path, arch=specimen.architecture)
    except NeedsConfig:
        file_name = specimen.path.name.removeprefix("modeling_")
        return convert_for(specimen, {}), file_name
    return port.text, port.file_name
