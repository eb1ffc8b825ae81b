"""Generate greedily with a port on the bundled runtime.

Prompts are token ids (--prompt-ids 1 2 3, once for each prompt), or text where
the model's folder has a tokenizer.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from porter.commands.options import (
    add_device,
    add_pickle,
    add_trust,
    existing_file,
    model_folder,
    positive,
)
from porter.console import say, working
from porter.gap import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("port", type=Path, metavar="PORT.py")
    parser.add_argument("--model", type=Path, required=True, metavar="DIR")
    parser.add_argument("--prompt", action="append", default=[], metavar="TEXT")
    parser.add_argument(
        "--prompt-ids", action="append", default=[], nargs="+", metavar="ID"
    )
    parser.add_argument("--max-tokens", type=positive, default=16, metavar="N")
    parser.add_argument("--tp", type=positive, default=1, metavar="N")
    add_device(parser, "default: a GPU where there is one")
    add_trust(parser)
    add_pickle(parser)


def run(arguments: argparse.Namespace) -> int:
    existing_file(arguments.port, "port")
    model_folder(arguments.model)
    prompts = [_token_ids(words) for words in arguments.prompt_ids]
    if not prompts and not arguments.prompt:
        raise UsageError("give --prompt or --prompt-ids")
    tokenizer = None
    if arguments.prompt:
        tokenizer = _tokenizer(arguments)
        prompts += [tokenizer(text).input_ids for text in arguments.prompt]

    with working(f"generating with {arguments.port}"):
        outputs = _generate(arguments, prompts)
    for prompt, output in zip(prompts, outputs, strict=True):
        if tokenizer is not None:
            say(tokenizer.decode(prompt + output.token_ids, skip_special_tokens=True))
        else:
            say(" ".join(map(str, output.token_ids)))
    return 0


def _generate(arguments: argparse.Namespace, prompts: list[list[int]]) -> list[Any]:
    from porter.runtime.llm import LLM, SamplingParams

    with LLM(
        arguments.port,
        arguments.model,
        tensor_parallel_size=arguments.tp,
        trust_remote_code=arguments.trust_remote_code,
        allow_pickle=arguments.allow_pickle,
        device=arguments.device,
    ) as llm:
        sampling = SamplingParams(
            max_tokens=arguments.max_tokens,
            ignore_eos=False,
            stop_token_ids=_stop_token_ids(arguments.model),
        )
        return llm.generate(prompts, sampling)


def _stop_token_ids(model: Path) -> tuple[int, ...]:
    """The model's end-of-text tokens: generation_config.json's, else config.json's."""
    for name in ("generation_config.json", "config.json"):
        path = model / name
        if path.is_file():
            try:
                ids = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
            except (ValueError, AttributeError) as error:
                raise UsageError(f"{path}: not a JSON object: {error}") from error
            if ids is not None:
                return tuple(ids) if isinstance(ids, list) else (ids,)
    return ()


def _token_ids(words: list[str]) -> list[int]:
    """Token ids separated by spaces or commas."""
    ids = [word for part in words for word in part.split(",") if word]
    for word in ids:
        if not word.isdigit():
            raise UsageError(f"--prompt-ids: {word!r} is not a token id")
    if not ids:
        raise UsageError("--prompt-ids: no token id given")
    return [int(word) for word in ids]


def _tokenizer(arguments: argparse.Namespace) -> Any:
    folder = arguments.model
    names = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")
    if not any((folder / name).is_file() for name in names):
        raise UsageError(f"{folder} has no tokenizer: give --prompt-ids instead")
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            folder, trust_remote_code=arguments.trust_remote_code
        )
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        raise UsageError(f"the tokenizer in {folder} can't be loaded") from error
