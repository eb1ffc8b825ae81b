"""`porter zoo`: what becomes of every causal LM that the installed transformers has."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from porter.output import write_files, write_json
from porter.release import transformers_version
from porter.zoo.category import category as category_of
from porter.zoo.listing import find
from porter.zoo.report import print_entries, to_html, to_json
from porter.zoo.sweep import Advance, Entry, sweep

__all__ = ["zoo"]


def zoo(
    names: Sequence[str] = (),
    engine: str = "porter",
    tp: Sequence[int] = (1,),
    configs: int = 2,
    category: str | None = None,
    json: Path | None = None,
    html: Path | None = None,
    convert_only: bool = False,
    invariances: bool = True,
    backend: bool = False,
    workers: int | None = None,
) -> list[Entry]:
    """Convert and verify the named models, or all, and print the table.

    names: architectures, model types or folders; category: of these only the ones of
    that kind. tp: numbers of ranks. configs: how many configs of each. json, html:
    files to write, `-` for JSON on standard output, in place of the table. invariances:
    see `verify`. backend: measure vLLM's Transformers backend in the same table. workers:
    processes at a time, as many as there are cores by default. Raises UsageError
    (unknown name, unwritable file) and CannotRun (an engine that isn't here).
    """
    if backend or not convert_only:  # which needs no torch
        from porter.verify.engines import check_engine

        for needed in [engine] * (not convert_only) + ["vllm"] * backend:
            check_engine(needed)
    specimens = [s for s in find(list(names)) if category in (None, category_of(s))]
    started = time.perf_counter()
    steps = 1 + (not convert_only) + backend
    with _progress(len(specimens) * steps) as advance:
        entries = sweep(
            specimens,
            engine=engine,
            ranks=tp,
            configs=configs,
            convert_only=convert_only,
            invariances=invariances,
            backend=backend,
            workers=workers or os.cpu_count() or 1,
            advance=advance,
        )
    seconds = time.perf_counter() - started
    version = transformers_version()
    if html is not None:
        write_files({html: to_html(entries, transformers=version, engine=engine)})
    if json is not None:
        facts = to_json(
            entries, transformers=version, engine=engine, tp=list(tp), seconds=seconds
        )
        write_json(json, facts)
    if str(json) != "-":
        print_entries(entries, seconds)
    return entries


@contextmanager
def _progress(total: int) -> Iterator[Advance]:
    """A bar on a terminal, drawn between tasks: a thread would not survive a fork."""
    if not sys.stderr.isatty():
        yield lambda name: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from porter.console import open_console

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    console = open_console(sys.stderr)
    with Progress(
        *columns, console=console, transient=True, auto_refresh=False
    ) as progress:
        task = progress.add_task("", total=total)

        def advance(name: str) -> None:
            progress.update(task, advance=1, description=name, refresh=True)

        yield advance
