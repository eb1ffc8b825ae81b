"""Prints how long `porter convert` takes in a fresh process, and what comes out.

    python figures/convert.py [MODEL_TYPE ...]

For each source: the best wall time of five fresh processes, the port's lines, and
whether torch or transformers was imported.
"""

import subprocess
import sys
import time

from porter.console import print_table

SIX = ("opt", "llama", "qwen3", "gemma2", "gpt_neox", "olmo2")
RUNS = 5
HEAVY = ("torch", "transformers")


def main() -> None:
    rows = [measure(source) for source in sys.argv[1:] or SIX]
    print_table(
        ["source", "seconds", "lines", "imported"], rows, right=["seconds", "lines"]
    )


def measure(source: str) -> tuple[str, str, int, str]:
    """(source, best seconds, lines of the port, heavy packages that were imported)."""
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        done = convert(source)
        seconds.append(time.perf_counter() - start)
    listed = convert(source, "-X", "importtime").stderr
    modules = {line.rpartition("|")[2].strip() for line in listed.splitlines()}
    imported = [name for name in HEAVY if name in modules]
    lines = done.stdout.count("\n")
    return source, f"{min(seconds):.2f}", lines, ", ".join(imported) or "neither"


def convert(source: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *flags, "-m", "porter", "convert", source, "-o", "-"]
    return subprocess.run(command, check=True, capture_output=True, text=True)


if __name__ == "__main__":
    main()
