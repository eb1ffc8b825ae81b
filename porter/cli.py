"""The command line: picks the command and turns every outcome into an exit code.

Exit codes: 0 done, 1 a difference, 2 a mistake of the caller, 3 refused or could not
run, 70 a bug of porter. A command's module is imported only when it is asked for.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from porter import __version__
from porter.gap import CannotRun, Refused, UsageError

COMMANDS = {
    "convert": "write the vLLM port of a HuggingFace model",
    "verify": "compare a port with the model it was made from",
    "check": "regenerate committed ports and show what differs",
    "explain": "what a transform does, or where a line of a port came from",
    "run": "generate with a port on the bundled runtime",
    "zoo": "convert and verify every decoder-only causal LM of transformers",
    "plugin": "an installable package that registers ports in vLLM",
    "bench": "throughput of a port, engines side by side",
}

DIFFERS, USAGE, REFUSED, INTERNAL = 1, 2, 3, 70


class Parser(argparse.ArgumentParser):
    """Raises `UsageError` for a wrong command line, so that one place reports it."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}\n  Try '{self.prog} --help'.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code.

    argv: the arguments after the program's name; `sys.argv` where None.
    Raises SystemExit(0) after `--help` and `--version`, as argparse does.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments)
    except UsageError as error:
        return _stop(str(error), USAGE)
    except Refused as refusal:
        for gap in refusal.gaps:
            print(gap, file=sys.stderr)
        count = len(refusal.gaps)
        gaps = "1 gap" if count == 1 else f"{count} gaps"
        return _stop(f"refused: {gaps}, nothing written", REFUSED)
    except CannotRun as error:
        return _stop(str(error), REFUSED)
    except KeyboardInterrupt:
        return _stop("interrupted", 130)
    except BrokenPipeError:
        # The reader of our output has gone (`porter ... | head`); so has the need.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if os.environ.get("PORTER_DEBUG") == "1":
            raise
        if isinstance(error, OSError) and error.filename is not None:
            return _stop(f"{error.filename}: {error.strerror}", USAGE)
        return _stop(
            f"internal error: {type(error).__name__}: {error}\n"
            "  This is a bug of porter. Please report it with the command line and "
            "what PORTER_DEBUG=1 shows.",
            INTERNAL,
        )


def _dispatch(arguments: list[str]) -> int:
    name = arguments[0] if arguments else ""
    if name not in COMMANDS:
        _overview().parse_args(arguments)
        raise UsageError("no command given\n  Try 'porter --help'.")
    command = importlib.import_module(f"porter.commands.{name}")
    parser = Parser(
        prog=f"porter {name}",
        description=command.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_arguments(parser)
    return command.run(parser.parse_args(arguments[1:]))


def _overview() -> Parser:
    """The parser of `porter` alone: it knows every command's name and no options."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    parser = Parser(
        prog="porter",
        usage="porter COMMAND ...",
        description="Compiles a HuggingFace model into a vLLM model file and proves\n"
        "that both compute the same.",
        epilog="commands:\n" + "\n".join(lines) + "\n\n"
        "'porter COMMAND --help' shows a command's options.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"porter {__version__}")
    parser.add_argument(
        "command", choices=COMMANDS, metavar="COMMAND", help=argparse.SUPPRESS
    )
    return parser


def _stop(message: str, code: int) -> int:
    print(f"porter: {message}", file=sys.stderr)
    return code
