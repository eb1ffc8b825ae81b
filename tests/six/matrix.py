"""Convert the six, then verify each config on an engine in each of its setups."""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from porter.verify.result import VerifyResult
from porter.zoo.listing import find
from porter.zoo.processes import TaskFailed, run_each
from tests.six.configs import CONFIGS

# A config may take, all its setups together.
SECONDS = {"porter": 600, "vllm": 1800}


@dataclass(frozen=True)
class Setup:
    """How an engine is set up: ranks, stages, and whether it runs torch.compile."""

    tp: int = 1
    pp: int = 1
    compiled: bool = False

    def __str__(self) -> str:
        ranks = [f"tp{self.tp}"] if self.tp > 1 or self.pp == 1 else []
        ranks += [f"pp{self.pp}"] if self.pp > 1 else []
        return "x".join(ranks) + (" compiled" if self.compiled else "")


@dataclass(frozen=True)
class Row:
    """One config of one model in one setup. error: why there is no result."""

    model: str
    config: str
    setup: Setup
    result: VerifyResult | None
    error: str = ""

    @property
    def passed(self) -> bool:
        return self.result is not None and self.result.passed


def run_matrix(
    models: Sequence[str],
    setups: Sequence[Setup],
    *,
    workers: int,
    engine: str = "porter",
    only: str = "",
    most: int | None = None,
    finished: Callable[[str], None] = lambda done: None,
) -> list[Row]:
    """Rows of all configs of the models, in order; configs run beside each other.

    only: a part of the names of the configs to run. most: the number of configs of a
    model to run. finished(words) after each config.
    """
    import torch
    import transformers  # noqa: F401  imported once, before the processes are forked

    from porter.verify.engines import check_engine

    torch.set_num_threads(1)
    check_engine(engine)  # which imports vLLM once, too
    items = [
        (model, config)
        for model in models
        for config in [name for name in CONFIGS[model] if only in name][:most]
    ]
    found: dict[int, list[Row]] = {}

    def work(item: tuple[str, str]) -> list[Row]:
        return rows_of(*item, setups, engine)

    seconds = SECONDS[engine]
    for index, rows in run_each(work, items, workers=workers, timeout=seconds):
        model, config = items[index]
        if isinstance(rows, TaskFailed):
            rows = [Row(model, config, setup, None, str(rows)) for setup in setups]
        found[index] = rows
        passed = sum(row.passed for row in rows)
        finished(f"{model}, {config}: {passed} of {len(rows)} pass")
    return [row for index in sorted(found) for row in found[index]]


def rows_of(
    model: str, name: str, setups: Sequence[Setup], engine: str = "porter"
) -> list[Row]:
    """The rows of one config: one conversion and one subject for all setups."""
    with tempfile.TemporaryDirectory(prefix="porter-six-") as scratch:
        try:
            port, subject = _prepare(model, name, Path(scratch), engine)
        except Exception as error:  # one broken config must not hide the others
            return [Row(model, name, setup, None, _words(error)) for setup in setups]
        return [_row(model, name, setup, port, subject, engine) for setup in setups]


def _prepare(model: str, name: str, scratch: Path, engine: str) -> tuple[Path, Any]:
    from porter.convert import convert
    from porter.verify.reference import class_of_module
    from porter.verify.verification import make_subject

    (specimen,) = find([model])
    port = scratch / f"{model}.py"
    port.write_text(convert(model).text, encoding="utf-8")
    source = class_of_module(specimen.module, specimen.architecture)
    subject = make_subject(
        source,
        None,
        scratch / "checkpoint",
        config_overrides=CONFIGS[model][name],
        engine=engine,
    )
    return port, subject


def _row(
    model: str, name: str, setup: Setup, port: Path, subject: Any, engine: str
) -> Row:
    from porter.verify.verification import engines_for, verify_subject

    fixed: dict[str, Any] = {"pipeline_parallel_size": setup.pp}
    if setup.compiled:
        fixed["compiled"] = True
    try:
        result = verify_subject(
            subject,
            engines_for(port, subject, engine, **fixed),
            engine=engine,
            tp=setup.tp,
            pp=setup.pp,
            # Those of the bundled runtime on one rank; vLLM's setups are rows here.
            invariances=engine == "porter" and setup == Setup(),
            two_ranks=(),
        )
    except Exception as error:
        return Row(model, name, setup, None, _words(error))
    return Row(model, name, setup, result)


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def timed(run: Callable[[], list[Row]]) -> tuple[list[Row], float]:
    """The rows and the wall time in seconds that they took."""
    started = time.perf_counter()
    rows = run()
    return rows, time.perf_counter() - started
