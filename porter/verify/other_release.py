"""The reference of a port whose source is of another release of transformers.

That release runs in a process of its own, with its folder in front of the path: it makes
the checkpoint, runs the model and hands the traces back. The engine stays here, with the
installed transformers, as in vLLM: what is checked is the port and the checkpoint that
people have.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from porter.gap import CannotRun, UsageError
from porter.verify.checkpoint import Checkpoint
from porter.verify.trace import Trace

_ERRORS: dict[str, type[Exception]] = {
    "UsageError": UsageError,
    "CannotRun": CannotRun,
}
SECONDS = 900


def trace_release(
    release: Path,
    module: str,
    architecture: str,
    code: Path | None,
    model_dir: Path | None,
    scratch: Path,
    again: bool = False,
    **options: Any,
) -> tuple[Path, list[Trace], Checkpoint | None]:
    """(model folder, traces, checkpoint if made) of a class of the release in `release`.

    module: `transformers.models.<folder>.<file>`; code: a trusted folder with code of its
    own instead. options: config_overrides, seed, allow_pickle, max_tokens of
    `make_subject`. A checkpoint that is made has a config that both releases read alike:
    again is the second of two tries. Raises what that process raised.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    job = {
        "module": module,
        "architecture": architecture,
        "code": str(code.resolve()) if code else None,
        "model_dir": str(model_dir) if model_dir else None,
        "folder": str(scratch / "checkpoint"),
        "answer": str(scratch / "answer.pt"),
        "options": {k: _plain(v) for k, v in options.items()},
    }
    path = scratch / "job.json"
    path.write_text(json.dumps(job), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": _path(release), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "porter.verify.other_release", str(path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    answer = scratch / "answer.pt"
    if not answer.is_file():
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise CannotRun(f"transformers in {release} can't run here: {last}")
    told = torch.load(answer, weights_only=True)
    if "error" in told:
        raise _ERRORS.get(told["error"], CannotRun)(told["message"])
    if told["checkpoint"] and not job["code"] and not again:
        # What the engine's transformers takes a field for is what the reference gets.
        otherwise = read_otherwise(Path(told["model_dir"]) / "config.json")
        if otherwise:
            given = {**(options.pop("config_overrides", None) or {}), **otherwise}
            options["config_overrides"] = given
            return trace_release(
                release, module, architecture, code, model_dir, scratch / "again",
                again=True, **options,
            )  # fmt: skip
    traces = [Trace(**fields) for fields in told["traces"]]
    made = told["checkpoint"]
    folder = scratch / "checkpoint"
    checkpoint = Checkpoint(folder, None, **made) if made else None
    return Path(told["model_dir"]), traces, checkpoint


def read_otherwise(config: Path) -> dict[str, Any]:
    """Sizes of a config.json that the installed transformers sets to None: a window that
    another field turns off, in one release by the config and in another by the model."""
    from transformers import AutoConfig

    stated = json.loads(config.read_text(encoding="utf-8"))
    try:
        read = AutoConfig.from_pretrained(config.parent)
    except Exception:  # the engine will say why
        return {}
    sizes = {k for k, v in stated.items() if isinstance(v, int) and hasattr(read, k)}
    return {name: None for name in sorted(sizes) if getattr(read, name) is None}


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def _path(release: Path) -> str:
    """PYTHONPATH of the process: the release, porter, and what was there before."""
    porter = Path(__file__).resolve().parent.parent.parent
    rest = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join(p for p in (str(release), str(porter), rest) if p)


# -- in the other process


def main(path: str) -> None:
    job = json.loads(Path(path).read_text(encoding="utf-8"))
    try:
        answer = _answer(job)
    except (UsageError, CannotRun) as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    torch.save(answer, job["answer"])


def _answer(job: dict[str, Any]) -> dict[str, Any]:
    from porter.verify.origin import Source
    from porter.verify.reference import class_of_module, foreign_class
    from porter.verify.verification import make_subject

    torch.set_num_threads(1)
    if job["code"]:
        code = Path(job["code"])
        source = Source(foreign_class(code, trust_remote_code=True), code)
    else:
        source = Source(class_of_module(job["module"], job["architecture"]))
    model_dir = Path(job["model_dir"]) if job["model_dir"] else None
    options = job["options"]
    subject = make_subject(source, model_dir, Path(job["folder"]), **options)
    checkpoint = subject.checkpoint
    made = None
    if checkpoint is not None:
        made = {
            name: getattr(checkpoint, name)
            for name in ("seed", "parameters", "margin", "distinct", "choice")
        }
    return {
        "model_dir": str(subject.model_dir),
        "traces": [asdict(trace) for trace in subject.traces],
        "checkpoint": made,
    }


if __name__ == "__main__":
    main(sys.argv[1])
