"""Convert and verify every decoder-only causal LM of the installed transformers.

NAME is an architecture, a model_type or a folder of transformers' models;
without one all are taken. A model that porter refuses is no failure. Exit code
0: no port differs from its source, 1: one does, or porter failed on one.
"""

import argparse
from pathlib import Path

from porter.commands.options import positive
from porter.zoo.category import CATEGORIES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--engine", choices=["porter", "vllm"], default="porter")
    parser.add_argument(
        "--tp", type=_ranks, default=[1], metavar="N[,N]", help="ranks, as 2 or 1,2"
    )
    parser.add_argument(
        "--configs",
        type=int,
        choices=[1, 2],
        default=2,
        help="1: each class's own defaults in small; 2: a varied config too",
    )
    parser.add_argument("--category", choices=CATEGORIES)
    parser.add_argument("--json", type=Path, metavar="FILE", help="'-': stdout")
    parser.add_argument("--html", type=Path, metavar="FILE")
    parser.add_argument(
        "--convert-only", action="store_true", help="don't verify what is converted"
    )
    parser.add_argument(
        "--no-invariances",
        action="store_true",
        help="don't verify again with other schedules",
    )
    parser.add_argument(
        "--backend",
        action="store_true",
        help="vLLM's Transformers backend on each checkpoint, in the same table",
    )
    parser.add_argument(
        "--workers", type=positive, metavar="N", help="processes (default: the cores)"
    )


def run(arguments: argparse.Namespace) -> int:
    from porter.zoo import zoo

    entries = zoo(
        arguments.names,
        engine=arguments.engine,
        tp=arguments.tp,
        configs=arguments.configs,
        category=arguments.category,
        json=arguments.json,
        html=arguments.html,
        convert_only=arguments.convert_only,
        invariances=not arguments.no_invariances,
        backend=arguments.backend,
        workers=arguments.workers,
    )
    return 1 if any(e.status in ("failed", "differs") for e in entries) else 0


def _ranks(text: str) -> list[int]:
    return [positive(part) for part in text.split(",")]
