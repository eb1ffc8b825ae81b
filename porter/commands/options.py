"""Types and options that several commands share."""

import argparse
from pathlib import Path

from porter.gap import UsageError


def positive(text: str) -> int:
    """An argparse type: an integer of at least 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def add_trust(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="allow importing code from outside the installed transformers",
    )


def add_pickle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow-pickle",
        action="store_true",
        help="also read weights from pickle files, which can run any code",
    )


def add_device(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--device", choices=["cpu", "cuda"], help=what)


def add_transformers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--transformers",
        type=Path,
        metavar="DIR",
        help="a folder with another release of transformers than the installed one",
    )


def existing_file(path: Path, what: str) -> Path:
    """The path itself. Raises UsageError where it is no file."""
    if path.is_dir():
        raise UsageError(f"{what} {path} is a folder, not a file")
    if not path.is_file():
        raise UsageError(f"{what} {path} doesn't exist")
    return path


def model_folder(path: Path) -> Path:
    """The path itself. Raises UsageError where it isn't a folder with config.json."""
    if not path.is_dir():
        raise UsageError(f"model folder {path} doesn't exist")
    if not (path / "config.json").is_file():
        raise UsageError(f"model folder {path} has no config.json")
    return path
