"""Write an installable package that registers ports in vLLM.

    porter plugin opt.py llama.py -o my_models
    pip install ./my_models

vLLM then runs the ports wherever a checkpoint names their architecture, in
the place of its own class of that name. The package needs vLLM and no porter.
"""

import argparse
from pathlib import Path

from porter.commands.options import existing_file
from porter.console import say
from porter.gap import UsageError
from porter.output import write_files
from porter.plugin import plugin_files


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ports", nargs="+", type=Path, metavar="PORT.py")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="the package's folder, and its name",
    )


def run(arguments: argparse.Namespace) -> int:
    for port in arguments.ports:
        existing_file(port, "port")
    files = plugin_files(arguments.ports, arguments.output)
    if arguments.output.exists() and not arguments.output.is_dir():
        raise UsageError(f"-o {arguments.output} is a file")
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
    write_files(files)
    count = len(arguments.ports)
    say(f"{arguments.output}: {count} {'model' if count == 1 else 'models'}")
    say(f"install it beside vLLM: pip install {arguments.output}")
    return 0
