"""Convert, then verify, each specimen of the zoo."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from porter.gap import CannotRun, Refused, UsageError
from porter.zoo.listing import Specimen
from porter.zoo.processes import TaskFailed, run_each

CONVERT_SECONDS = 30
VERIFY_SECONDS = 180

# Best first. `differs` is the one that must never be seen.
STATUSES = ("verified", "converted", "refused", "unverified", "failed", "differs")


@dataclass(frozen=True)
class Entry:
    """What became of one specimen.

    status: verified (converted, and equal to its source), converted (not verified, as
    asked), refused (see gaps), unverified (converted, but the check could not run),
    failed (an error of porter's), differs. ms: wall time of the conversion. lines: of
    the port. reason: why, for the last three. verification: as `porter verify --json`.
    """

    architecture: str
    model_type: str
    file: str
    status: str
    ms: float = 0.0
    lines: int = 0
    gaps: list[dict[str, Any]] = field(default_factory=list)
    reason: str = ""
    verification: dict[str, Any] | None = None


@dataclass(frozen=True)
class _Conversion:
    """A converted specimen with its port, on its way to be verified."""

    specimen: Specimen
    entry: Entry
    text: str


Advance = Callable[[str], None]


def sweep(
    specimens: Sequence[Specimen],
    *,
    tp: int = 1,
    convert_only: bool = False,
    workers: int = 2,
    advance: Advance = lambda name: None,
) -> list[Entry]:
    """An entry for each specimen, in their order.

    advance(architecture) is called after each conversion and each verification.
    """
    conversions: dict[int, _Conversion] = {}
    for index, conversion in _convert_all(specimens, workers):
        conversions[index] = conversion
        advance(conversion.specimen.architecture)
    entries = {index: c.entry for index, c in conversions.items()}
    converted = sorted(i for i, e in entries.items() if e.status == "converted")
    if not convert_only and converted:
        for index, entry in _verify_all(converted, conversions, tp, workers):
            entries[index] = entry
            advance(entry.architecture)
    return [entries[index] for index in sorted(entries)]


def _convert_all(
    specimens: Sequence[Specimen], workers: int
) -> Iterator[tuple[int, _Conversion]]:
    import porter.convert  # noqa: F401  imported here once, not in each process

    tasks = run_each(convert_one, specimens, workers=workers, timeout=CONVERT_SECONDS)
    for index, result in tasks:
        specimen = specimens[index]
        if isinstance(result, TaskFailed):
            entry = replace(_entry(specimen, "failed"), reason=str(result))
            yield index, _Conversion(specimen, entry, "")
        else:
            entry, text = result
            yield index, _Conversion(specimen, entry, text)


def _entry(specimen: Specimen, status: str, **more: Any) -> Entry:
    return Entry(
        architecture=specimen.architecture,
        model_type=specimen.model_types[-1],
        file=f"models/{specimen.path.parent.name}/{specimen.path.name}",
        status=status,
        **more,
    )


def convert_one(specimen: Specimen) -> tuple[Entry, str]:
    """The entry of one conversion, and the port's text, empty where refused."""
    from porter.convert import convert

    started = time.perf_counter()

    def ms() -> float:
        return round(1000 * (time.perf_counter() - started), 1)

    try:
        port = convert(specimen.path, arch=specimen.architecture)
    except Refused as refusal:
        gaps = [asdict(gap) for gap in refusal.gaps]
        return _entry(specimen, "refused", ms=ms(), gaps=gaps), ""
    except UsageError as error:
        return _entry(specimen, "failed", ms=ms(), reason=str(error)), ""
    lines = port.text.count("\n")
    return _entry(specimen, "converted", ms=ms(), lines=lines), port.text


def _verify_all(
    indexes: list[int],
    conversions: dict[int, _Conversion],
    tp: int,
    workers: int,
) -> Iterator[tuple[int, Entry]]:
    import torch
    import transformers  # noqa: F401  imported here once, not in each process

    torch.set_num_threads(1)  # tiny models; and a forked pool of threads would hang

    def work(conversion: _Conversion) -> Entry:
        return verify_one(conversion, tp)

    todo = [conversions[index] for index in indexes]
    tasks = run_each(work, todo, workers=workers, timeout=VERIFY_SECONDS)
    for position, result in tasks:
        entry = todo[position].entry
        if isinstance(result, TaskFailed):
            result = replace(entry, status="failed", reason=f"verify: {result}")
        yield indexes[position], result


def verify_one(conversion: _Conversion, tp: int) -> Entry:
    """The entry of one converted specimen after its verification."""
    from porter.verify.reference import class_of_module
    from porter.verify.verification import make_subject, porter_engines, verify_subject

    specimen, entry = conversion.specimen, conversion.entry
    with tempfile.TemporaryDirectory(prefix="porter-zoo-") as scratch:
        port = Path(scratch) / f"{specimen.path.parent.name}.py"
        port.write_text(conversion.text, encoding="utf-8")
        try:
            source = class_of_module(specimen.module, specimen.architecture)
            subject = make_subject(source, None, Path(scratch) / "checkpoint")
        except CannotRun as error:
            return replace(entry, status="unverified", reason=str(error))
        try:
            engines = porter_engines(port, subject)
            result = verify_subject(subject, engines, tp=tp, two_ranks=False)
        except (CannotRun, UsageError) as error:
            return replace(entry, status="unverified", reason=str(error))
    return replace(
        entry,
        status="verified" if result.passed else "differs",
        reason="; ".join(result.failures),
        verification=result.to_json(),
    )
