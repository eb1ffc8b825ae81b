"""The zoo's entries as a table, as JSON and as a page."""

import textwrap
from collections.abc import Sequence
from html import escape
from typing import Any

from porter.console import print_table, say
from porter.zoo.sweep import STATUSES, Entry

MOST_CHARACTERS = 100  # of a reason in the table; JSON and page have all of it
VERSION = 1  # of the JSON; raised when a key changes its meaning


def count(entries: Sequence[Entry]) -> dict[str, int]:
    """How many entries have each status, the statuses that none has included."""
    return {status: sum(e.status == status for e in entries) for status in STATUSES}


def to_json(
    entries: Sequence[Entry], *, transformers: str, engine: str, tp: int, seconds: float
) -> dict[str, Any]:
    """The JSON of `porter zoo`: versioned, the entries by architecture."""
    return {
        "version": VERSION,
        "transformers": transformers,
        "engine": engine,
        "tp": tp,
        "seconds": round(seconds, 1),
        "counts": count(entries),
        "models": [vars(entry) for entry in entries],
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
    print_table(
        ["model", "status", "ms", "why"],
        [
            (
                entry.architecture,
                entry.status,
                f"{entry.ms:.0f}",
                why(entry),
            )
            for entry in entries
        ],
        right=["ms"],
    )
    counts = ", ".join(f"{n} {s}" for s, n in count(entries).items() if n)
    say(f"{len(entries)} models in {seconds:.1f} s: {counts}")


def to_html(entries: Sequence[Entry], *, transformers: str) -> str:
    """A page that needs nothing else: the same table, every gap of it."""
    rows = "\n".join(_row(entry) for entry in entries)
    counts = ", ".join(f"{n} {s}" for s, n in count(entries).items() if n)
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>porter zoo</title>
<style>
body {{ font: 15px/1.4 sans-serif; max-width: 70rem; margin: 2rem auto; }}
td, th {{ text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0; }}
tr {{ border-bottom: 1px solid #ddd; }}
.number {{ text-align: right; }}
</style>
<h1>Decoder-only causal LMs of transformers {escape(transformers)}</h1>
<p>{len(entries)} models: {escape(counts)}</p>
<table>
<tr><th>model<th>status<th>ms<th>lines<th>why</tr>
{rows}
</table>
</html>
"""


def _row(entry: Entry) -> str:
    gaps = [f"{entry.file}:{gap['line']}: {gap['what']}" for gap in entry.gaps]
    text = "<br>".join(escape(part) for part in gaps or [entry.reason])
    return (
        f"<tr><td>{escape(entry.architecture)}<td>{escape(entry.status)}"
        f'<td class="number">{entry.ms:.0f}<td class="number">{entry.lines}'
        f"<td>{text}</tr>"
    )
