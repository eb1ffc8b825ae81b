"""Convert, then verify, each specimen of the zoo."""

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from porter.gap import CannotRun, NeedsConfig, Refused, UsageError
from porter.zoo.backend import BACKEND_SECONDS, Backend, measure_backend
from porter.zoo.category import category
from porter.zoo.listing import Specimen
from porter.zoo.processes import TaskFailed, run_each

CONVERT_SECONDS = 30
VERIFY_SECONDS = {"porter": 180, "vllm": 600}  # a config on a number of ranks

# Best first. `differs` is the one that must never be seen.
STATUSES = ("verified", "converted", "refused", "unverified", "failed", "differs")


@dataclass(frozen=True)
class Entry:
    """What became of one specimen.

    status: verified (converted, and equal to its source), converted (not verified, as
    asked), refused (see gaps), unverified (converted, but the check could not run),
    failed (an error of porter's), differs: the worst of its runs. ms: wall time of the
    conversion. lines: of the port. reason: why, for the last three. verification: of the
    first run, as `porter verify --json`. runs: every config and number of ranks.
    config_fields: those that decide which of several models the source is; then each
    config has a port of its own (`porter convert --config`). settled_by: those of which a
    port for all configs has one side only; a config that changes one of them has a port
    of its own, too. refused: changes that the varied config leaves out, and why porter
    refuses each. backend: what vLLM's Transformers backend makes of the same checkpoint,
    None where it wasn't asked for.
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
    category: str = "unknown"
    runs: list["Run"] = field(default_factory=list)
    config_fields: list[str] = field(default_factory=list)
    settled_by: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    backend: Backend | None = None


@dataclass(frozen=True)
class Run:
    """One verification: a config (see `porter.verify.variation`) on `tp` ranks.

    config: `tiny`, the class's own defaults in small sizes, or `varied`, with the
    overrides. status: verified, unverified or differs.
    """

    config: str
    overrides: dict[str, Any]
    tp: int
    status: str
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
    engine: str = "porter",
    ranks: Sequence[int] = (1,),
    configs: int = 2,
    convert_only: bool = False,
    invariances: bool = True,
    backend: bool = False,
    workers: int = 2,
    advance: Advance = lambda name: None,
) -> list[Entry]:
    """An entry for each specimen, in their order.

    engine: what they are verified on. ranks: the tp sizes that each config is verified
    at. configs: 1, the tiny config of each class, or 2, a varied one beside it.
    invariances: see `verify`. backend: measure vLLM's Transformers backend too, on what
    is refused as well. advance(architecture) is called after each of these steps.
    """
    conversions: dict[int, _Conversion] = {}
    for index, conversion in _convert_all(specimens, workers):
        conversions[index] = conversion
        advance(conversion.specimen.architecture)
    entries = {index: c.entry for index, c in conversions.items()}
    converted = sorted(i for i, e in entries.items() if e.status == "converted")
    if not convert_only and converted:
        for index, entry in _verify_all(
            converted, conversions, engine, ranks, configs, invariances, workers
        ):
            entries[index] = entry
            advance(entry.architecture)
    if backend:
        for index, measured in _measure_backends(specimens, workers):
            entries[index] = replace(entries[index], backend=measured)
            advance(entries[index].architecture)
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
        category=category(specimen),
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
    except NeedsConfig as asked:
        text = convert_for(specimen, {})
        entry = _entry(specimen, "converted", ms=ms(), lines=text.count("\n"))
        return replace(entry, config_fields=asked.fields), text
    except Refused as refusal:
        gaps = [asdict(gap) for gap in refusal.gaps]
        return _entry(specimen, "refused", ms=ms(), gaps=gaps), ""
    except UsageError as error:
        return _entry(specimen, "failed", ms=ms(), reason=str(error)), ""
    lines = port.text.count("\n")
    entry = _entry(specimen, "converted", ms=ms(), lines=lines)
    return replace(entry, settled_by=port.settled_by), port.text


def convert_for(specimen: Specimen, config: dict[str, Any]) -> str:
    """The port for one config; the fields that it doesn't have are the class's own."""
    from porter.convert import convert

    with tempfile.TemporaryDirectory(prefix="porter-zoo-") as scratch:
        path = Path(scratch) / "config.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        return convert(specimen.path, arch=specimen.architecture, config=path).text


def _prepare_forks(engine: str) -> None:
    """Import here, once, what each process needs."""
    import torch
    import transformers  # noqa: F401

    from porter.verify.engines import check_engine

    torch.set_num_threads(1)  # tiny models; and a forked pool of threads would hang
    check_engine(engine)  # which imports vLLM once, too


def _verify_all(
    indexes: list[int],
    conversions: dict[int, _Conversion],
    engine: str,
    ranks: Sequence[int],
    configs: int,
    invariances: bool,
    workers: int,
) -> Iterator[tuple[int, Entry]]:
    _prepare_forks(engine)

    def work(conversion: _Conversion) -> Entry:
        return verify_one(conversion, engine, ranks, configs, invariances)

    todo = [conversions[index] for index in indexes]
    seconds = VERIFY_SECONDS[engine] * configs * len(ranks)
    tasks = run_each(work, todo, workers=workers, timeout=seconds)
    for position, result in tasks:
        entry = todo[position].entry
        if isinstance(result, TaskFailed):
            result = replace(entry, status="failed", reason=f"verify: {result}")
        yield indexes[position], result


def _measure_backends(
    specimens: Sequence[Specimen], workers: int
) -> Iterator[tuple[int, Backend]]:
    _prepare_forks("vllm")
    tasks = run_each(
        measure_backend, specimens, workers=workers, timeout=BACKEND_SECONDS
    )
    for index, result in tasks:
        if isinstance(result, TaskFailed):
            result = Backend("can't run", str(result))
        yield index, result


def verify_one(
    conversion: _Conversion,
    engine: str,
    ranks: Sequence[int],
    configs: int,
    invariances: bool = True,
) -> Entry:
    """The entry of one converted specimen after its verifications."""
    from porter.verify.reference import class_of_module
    from porter.verify.variation import vary

    specimen, entry = conversion.specimen, conversion.entry
    with tempfile.TemporaryDirectory(prefix="porter-zoo-") as scratch:
        port = Path(scratch) / f"{specimen.path.parent.name}.py"
        port.write_text(conversion.text, encoding="utf-8")
        try:
            source = class_of_module(specimen.module, specimen.architecture)
            overrides: list[tuple[str, dict[str, Any]]] = [("tiny", {})]
            refused: dict[str, str] = {}
            ported = partial(_ported, specimen, entry, refused)
            if configs > 1 and (varied := vary(source, ported=ported)):
                overrides.append(("varied", varied))
        except CannotRun as error:
            return replace(entry, status="unverified", reason=str(error))
        runs = []
        for name, changed in overrides:
            folder = Path(scratch) / name
            renew = None
            if entry.config_fields or not changed.keys().isdisjoint(entry.settled_by):
                renew = partial(_write_for, specimen, port)
            runs += runs_of(
                port, source, folder, name, changed, engine, ranks, invariances, renew
            )
    worst = max(runs, key=lambda run: STATUSES.index(run.status))
    reasons = [f"{worst.config}, tp {worst.tp}: {worst.reason}"] if worst.reason else []
    reasons += [f"refused with {change}: {why}" for change, why in refused.items()]
    return replace(
        entry,
        status=worst.status,
        reason="; ".join(reasons),
        refused=refused,
        verification=runs[0].verification,
        runs=runs,
    )


def _ported(
    specimen: Specimen, entry: Entry, refused: dict[str, str], overrides: dict[str, Any]
) -> bool:
    """Whether a config has a port; of one that hasn't, its last change is noted."""
    deciding = {*entry.config_fields, *entry.settled_by}
    if deciding.isdisjoint(overrides):
        return True
    try:
        convert_for(specimen, overrides)
    except Refused as refusal:
        name = list(overrides)[-1]
        refused[f"{name} = {overrides[name]}"] = str(refusal).splitlines()[0]
        return False
    return True


def _write_for(specimen: Specimen, port: Path, model_dir: Path) -> None:
    """The port for the config of a checkpoint. Raises CannotRun where it is refused."""
    config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    try:
        port.write_text(convert_for(specimen, config), encoding="utf-8")
    except Refused as refusal:
        raise CannotRun(f"refused for this config: {refusal}") from refusal


def runs_of(
    port: Path,
    source: type,
    folder: Path,
    name: str,
    overrides: dict[str, Any],
    engine: str,
    ranks: Sequence[int],
    invariances: bool = True,
    renew: Callable[[Path], None] | None = None,
) -> list[Run]:
    """One config verified at each number of ranks, on one checkpoint in `folder`.

    renew(checkpoint): writes the port anew, where each config has one of its own.
    """
    from porter.verify.verification import engines_for, make_subject, verify_subject

    try:
        subject = make_subject(
            source, None, folder, config_overrides=overrides, engine=engine
        )
        if renew is not None:
            renew(subject.model_dir)
    except CannotRun as error:
        return [Run(name, overrides, tp, "unverified", str(error)) for tp in ranks]
    runs = []
    for tp in ranks:
        try:
            engines = engines_for(port, subject, engine)
            result = verify_subject(
                subject,
                engines,
                engine=engine,
                tp=tp,
                invariances=invariances,
                two_ranks=("pp2", "ep2") if tp == 1 else (),  # tp 2 is another run
            )
        except (CannotRun, UsageError) as error:
            runs.append(Run(name, overrides, tp, "unverified", str(error)))
            continue
        status = "verified" if result.passed else "differs"
        reason = "; ".join(result.failures)
        runs.append(Run(name, overrides, tp, status, reason, result.to_json()))
    return runs
