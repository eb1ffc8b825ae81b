"""The zoo's entries as a table, as JSON and as a page."""

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from porter.console import print_table, say
from porter.release import transformers_root
from porter.zoo.sweep import STATUSES, Entry, Run

MOST_CHARACTERS = 100  # of a reason in the table; JSON and page have all of it
VERSION = 2  # of the JSON; raised when a key changes its meaning


def count(entries: Sequence[Entry]) -> dict[str, int]:
    """How many entries have each status, the statuses that none has included."""
    return {status: sum(e.status == status for e in entries) for status in STATUSES}


def count_backend(entries: Sequence[Entry]) -> dict[str, int]:
    """How many entries have each status in the Transformers backend, as measured."""
    return dict(Counter(e.backend.status for e in entries if e.backend is not None))


def to_json(
    entries: Sequence[Entry],
    *,
    transformers: str,
    engine: str,
    tp: list[int],
    seconds: float,
) -> dict[str, Any]:
    """The JSON of `porter zoo`: versioned, the entries by architecture."""
    return {
        "version": VERSION,
        "transformers": transformers,
        "engine": engine,
        "tp": tp,
        "seconds": round(seconds, 1),
        "counts": count(entries),
        "backend_counts": count_backend(entries),
        "models": [asdict(entry) for entry in entries],
    }


def why(entry: Entry) -> str:
    """One entry's reason in short: its first gap and how many more, or else."""
    if not entry.gaps:
        return _short(entry.reason)
    gap = entry.gaps[0]
    more = f" (+{len(entry.gaps) - 1})" if len(entry.gaps) > 1 else ""
    return _short(f":{gap['line']}: {gap['what']}") + more


def _short(text: str) -> str:
    return textwrap.shorten(text, MOST_CHARACTERS, placeholder=" ...")


def print_entries(entries: Sequence[Entry], seconds: float) -> None:
    """The table on 80 columns, and the counts below it."""
    measured = any(entry.backend is not None for entry in entries)
    columns = ["model", "status", *["backend"] * measured, "ms", "why"]
    print_table(
        columns,
        [
            (
                entry.architecture,
                entry.status,
                *[entry.backend.status if entry.backend else ""] * measured,
                f"{entry.ms:.0f}",
                why(entry),
            )
            for entry in entries
        ],
        right=["ms"],
    )
    counts = ", ".join(f"{n} {s}" for s, n in count(entries).items() if n)
    say(f"{len(entries)} models in {seconds:.1f} s: {counts}")
    if measured:
        theirs = ", ".join(f"{n} {s}" for s, n in count_backend(entries).items())
        say(f"vLLM's Transformers backend: {theirs}")


def to_html(entries: Sequence[Entry], *, transformers: str, engine: str) -> str:
    """A page that needs nothing else: the same table, every run and every gap of it."""
    rows = "\n".join(_row(entry) for entry in entries)
    counts = ", ".join(f"{n} {s}" for s, n in count(entries).items() if n)
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>porter zoo</title>
<style>
body {{ font: 15px/1.4 sans-serif; max-width: 80rem; margin: 2rem auto; }}
td, th {{ text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0; }}
tr {{ border-bottom: 1px solid #ddd; }}
.number {{ text-align: right; }}
code {{ color: #555; white-space: pre-wrap; }}
.verified {{ color: #0a6b2c; }}
.differs, .failed {{ color: #b00020; font-weight: bold; }}
</style>
<h1>Decoder-only causal LMs of transformers {escape(transformers)}</h1>
<p>{len(entries)} models: {escape(counts)}. Engine: {escape(engine)}.</p>
<table>
<tr><th>model<th>category<th>status<th>backend<th>runs<th>lines<th>fused<th>ms<th>why</tr>
{rows}
</table>
</html>
"""


def _row(entry: Entry) -> str:
    cells = (
        f"<td>{escape(entry.architecture)}<td>{escape(entry.category)}",
        f'<td class="{escape(entry.status)}">{escape(entry.status)}',
        f"<td>{escape(_backend(entry))}",
        f"<td>{'<br>'.join(escape(_run(run)) for run in entry.runs)}",
        f'<td class="number">{entry.lines or ""}<td>{escape(_fused(entry))}',
        f'<td class="number">{entry.ms:.0f}<td>{_reasons(entry)}',
    )
    return f"<tr>{''.join(cells)}</tr>"


def _backend(entry: Entry) -> str:
    """What vLLM's Transformers backend made of it, with the reason."""
    backend = entry.backend
    if backend is None:
        return ""
    return f"{backend.status}: {backend.reason}" if backend.reason else backend.status


def _run(run: Run) -> str:
    """One run on a line: config, ranks, what came of it and how near it was."""
    near = run.verification["logits_rel_rmse"] if run.verification else None
    error = f", {near:.0e}" if near is not None else ""
    return f"{run.config}, tp {run.tp}: {run.status}{error}"


def _fused(entry: Entry) -> str:
    fused = entry.verification["fused"] if entry.verification else {}
    return ", ".join(f"{kind} {n}" for kind, n in fused.items() if n)


def _reasons(entry: Entry) -> str:
    """Each gap with the source line it stands on, or why nothing was verified."""
    if not entry.gaps:
        return escape(entry.reason)
    parts = []
    for gap in entry.gaps:
        where = f"{entry.file}:{gap['line']}: {gap['what']}"
        parts.append(f"{escape(where)}<br><code>{escape(_line(gap))}</code>")
    return "<br>".join(parts)


def _line(gap: dict[str, Any]) -> str:
    lines = _lines_of(gap["file"])
    return lines[gap["line"] - 1].strip() if 0 < gap["line"] <= len(lines) else ""


@cache
def _lines_of(file: str) -> tuple[str, ...]:
    for path in (Path(file), transformers_root() / file):
        if path.is_file():
            return tuple(path.read_text(encoding="utf-8").splitlines())
    return ()
