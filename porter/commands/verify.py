"""Prove that a port computes what the model it was made from computes.

Without --model a tiny checkpoint with seeded random weights is made from the
config class. --engine vllm runs the same file in the installed vLLM, eager
and under torch.compile. Exit code 0: passes, 1: differs, 3: could not run,
and why.
"""

import argparse
from pathlib import Path

from porter.commands.options import (
    add_device,
    add_pickle,
    add_transformers,
    add_trust,
    existing_file,
    model_folder,
    positive,
)
from porter.console import print_table, say, working
from porter.gap import UsageError
from porter.output import write_json

# Shown as the verdict, or of interest to programs only.
NOT_IN_THE_TABLE = ("version", "passed", "failures")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("port", type=Path, metavar="PORT.py")
    parser.add_argument("--against", choices=["hf"], default="hf")
    parser.add_argument("--model", type=Path, metavar="DIR", help="a checkpoint")
    parser.add_argument("--engine", choices=["porter", "vllm"], default="porter")
    parser.add_argument("--tp", type=positive, default=1, metavar="N")
    parser.add_argument("--pp", type=positive, default=1, metavar="N")
    parser.add_argument(
        "--enable-expert-parallel", "--ep", action="store_true", dest="ep",
        help="spread the experts whole over the tp ranks",
    )  # fmt: skip
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], default="float32"
    )
    add_device(parser, "the bundled runtime's; default: cpu, whatever is there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="'-': stdout")
    add_trust(parser)
    add_transformers(parser)
    add_pickle(parser)


def run(arguments: argparse.Namespace) -> int:
    existing_file(arguments.port, "port")
    if arguments.model is not None:
        model_folder(arguments.model)
    if arguments.ep and arguments.tp == 1:
        raise UsageError("--enable-expert-parallel needs ranks to spread over: --tp 2")
    from porter.release import reading

    with working(f"verifying {arguments.port}"), reading(arguments.transformers):
        from porter.verify import verify

        result = verify(
            arguments.port,
            against=arguments.against,
            model_dir=arguments.model,
            engine=arguments.engine,
            tp=arguments.tp,
            pp=arguments.pp,
            ep=arguments.ep,
            dtype=arguments.dtype,
            trust_remote_code=arguments.trust_remote_code,
            allow_pickle=arguments.allow_pickle,
            device=arguments.device,
        )
    facts = result.to_json()
    if arguments.json is not None:
        write_json(arguments.json, facts)
    if str(arguments.json) != "-":
        _show(arguments.port, facts)
    return 0 if facts["passed"] else 1


def _show(port: Path, facts: dict) -> None:
    rows = [
        (name.replace("_", " "), _cell(value))
        for name, value in facts.items()
        if name not in NOT_IN_THE_TABLE
    ]
    print_table(["what", "result"], rows)
    for failure in facts["failures"]:
        say(f"{port}: {failure}")
    say(f"{port}: {'passes' if facts['passed'] else 'DIFFERS'}")


def _cell(value: object) -> str:
    """A value of the JSON on one line: the content where it is short, else a count."""
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.2e}" if value and abs(value) < 1e-2 else f"{value:.4g}"
        case dict():
            pairs = (
                f"{key.replace('_', ' ')} {_cell(item)}" for key, item in value.items()
            )
            return ", ".join(pairs) or "none"
        case list() if value and all(isinstance(item, bool) for item in value):
            return f"{sum(value)} of {len(value)}"
        case list():
            return "\n".join(_cell(item) for item in value) or "none"
    return str(value)
