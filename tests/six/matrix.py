"""Convert each of the six once, then verify each config on one rank and on two."""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from porter.verify.result import VerifyResult
from porter.zoo.listing import Specimen, find
from porter.zoo.processes import TaskFailed, run_each
from tests.six.configs import CONFIGS, Config

SECONDS = 600  # a model may take, all its configs together


@dataclass(frozen=True)
class Row:
    """One config of one model on `tp` ranks. error: why there is no result."""

    model: str
    config: str
    tp: int
    result: VerifyResult | None
    error: str = ""

    @property
    def passed(self) -> bool:
        return self.result is not None and self.result.passed


def run_matrix(
    models: Sequence[str],
    ranks: Sequence[int],
    *,
    workers: int,
    only: str = "",
    finished: Callable[[str], None] = lambda model: None,
) -> list[Row]:
    """Rows of all configs of the models, in order; models run beside each other.

    only: a part of the names of the configs to run.
    """
    import torch
    import transformers  # noqa: F401  imported once, before the processes are forked

    torch.set_num_threads(1)
    found: dict[int, list[Row]] = {}

    def work(model: str) -> list[Row]:
        return rows_of(model, ranks, only)

    for index, rows in run_each(work, models, workers=workers, timeout=SECONDS):
        if isinstance(rows, TaskFailed):
            rows = [Row(models[index], "all", tp, None, str(rows)) for tp in ranks]
        found[index] = rows
        finished(models[index])
    return [row for index in sorted(found) for row in found[index]]


def rows_of(model: str, ranks: Sequence[int], only: str = "") -> list[Row]:
    """The rows of one model: one conversion, one subject a config."""
    from porter.convert import convert

    (specimen,) = find([model])
    rows = []
    with tempfile.TemporaryDirectory(prefix="porter-six-") as scratch:
        port = Path(scratch) / f"{model}.py"
        port.write_text(convert(model).text, encoding="utf-8")
        for number, (name, config) in enumerate(CONFIGS[model].items()):
            if only in name:
                folder = Path(scratch) / f"checkpoint-{number}"
                rows += _rows_of_config(specimen, port, folder, name, config, ranks)
    return rows


def _rows_of_config(
    specimen: Specimen,
    port: Path,
    folder: Path,
    name: str,
    config: Config,
    ranks: Sequence[int],
) -> list[Row]:
    model = port.stem
    try:
        subject, engines = _prepare(specimen, port, folder, config)
    except Exception as error:  # one broken config must not hide the others
        return [Row(model, name, tp, None, _words(error)) for tp in ranks]
    return [_row(model, name, tp, subject, engines) for tp in ranks]


def _prepare(
    specimen: Specimen, port: Path, folder: Path, config: Config
) -> tuple[Any, Any]:
    from porter.verify.reference import class_of_module
    from porter.verify.verification import make_subject, porter_engines

    source = class_of_module(specimen.module, specimen.architecture)
    subject = make_subject(source, None, folder, config_overrides=config)
    return subject, porter_engines(port, subject)


def _row(model: str, name: str, tp: int, subject: Any, engines: Any) -> Row:
    from porter.verify.verification import verify_subject

    try:
        result = verify_subject(
            subject, engines, tp=tp, invariances=tp == 1, two_ranks=False
        )
    except Exception as error:
        return Row(model, name, tp, None, _words(error))
    return Row(model, name, tp, result)


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def timed(run: Callable[[], list[Row]]) -> tuple[list[Row], float]:
    """The rows and the wall time in seconds that they took."""
    started = time.perf_counter()
    rows = run()
    return rows, time.perf_counter() - started
