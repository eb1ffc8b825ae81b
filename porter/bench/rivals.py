"""A port in the installed vLLM beside what vLLM has for the same checkpoint.

Three models: the port, vLLM's handwritten one where there is one, and vLLM's Transformers
backend. Each is loaded in a process of its own, with vLLM's own defaults, and they take
turns, so that other load on the machine falls on all of them.
"""

import json
import multiprocessing
import time
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

from porter.bench.engines import Setup
from porter.gap import CannotRun
from porter.runtime.worker import main_module_hidden

# kind -> what it is called in the table
RIVALS = {
    "port": "port",
    "handwritten": "vLLM's own",
    "transformers": "Transformers backend",
}
KV_CACHE_BYTES = 1 << 30


@dataclass(frozen=True)
class Order:
    """What a rival's process is told. kind: of RIVALS. eager: without torch.compile."""

    kind: str
    setup: Setup
    eager: bool
    max_model_len: int


class Rival:
    """One model, loaded. load_seconds: of vLLM's engine, its compilation included.

    fused: kind -> number of vLLM's layers of that kind in the built model.
    Raises CannotRun where vLLM doesn't load it, and NotThere where it has none.
    """

    def __init__(self, order: Order) -> None:
        self.kind, self.name = order.kind, RIVALS[order.kind]
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, order), daemon=True)
        with main_module_hidden():
            self._process.start()
        theirs.close()
        facts = self._answer()
        self.load_seconds: float = facts["load_seconds"]
        self.fused: dict[str, int] = facts["fused"]
        self.model_class: str = facts["class"]

    def generate(self, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        """The new token ids, one list a prompt; greedy, none stops it."""
        self._pipe.send((prompts, new_tokens))
        return self._answer()

    def _answer(self) -> Any:
        try:
            kind, value = self._pipe.recv()
        except EOFError as error:
            raise CannotRun(f"{self.name}: vLLM's process died") from error
        if kind == "absent":
            raise NotThere(value)
        if kind == "cannot":
            raise CannotRun(f"{self.name}: {value}")
        return value

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._pipe.close()  # ends the process
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.terminate()


class NotThere(CannotRun):
    """vLLM has no model of that kind for the checkpoint."""


def _work(pipe: Connection, order: Order) -> None:
    """A rival's life: load, report, then generate until the pipe closes."""
    from porter.vllm_engine.environment import require_vllm
    from porter.vllm_engine.output import keep_quiet

    vllm = require_vllm()
    with keep_quiet() as log, ExitStack() as stack:
        try:
            llm, seconds = _load(vllm, order, stack)
            pipe.send(("ready", {"load_seconds": seconds, **_facts(llm)}))
            while True:
                prompts, new_tokens = pipe.recv()
                pipe.send(("tokens", _generate(vllm, llm, prompts, new_tokens)))
        except (EOFError, BrokenPipeError):
            return  # the table is made, or given up
        except NotThere as error:
            pipe.send(("absent", str(error)))
        except Exception as error:  # vLLM raises what it likes
            pipe.send(("cannot", log.cause(error)))


def _load(vllm: Any, order: Order, stack: ExitStack) -> tuple[Any, float]:
    from porter.verify.origin import architecture_of
    from porter.vllm_engine.ports import registered

    setup, options = order.setup, dict[str, Any]()
    architecture = architecture_of(setup.port)
    if order.kind == "port":
        stack.enter_context(registered({architecture: setup.port}))
        options["hf_overrides"] = {"architectures": [architecture]}
    elif order.kind == "handwritten":
        _check_handwritten(setup.model)
        options["model_impl"] = "vllm"
    else:
        options["model_impl"] = "transformers"
    started = time.perf_counter()
    llm = vllm.LLM(
        str(setup.model),
        skip_tokenizer_init=True,
        dtype=setup.dtype,
        enforce_eager=order.eager,
        trust_remote_code=setup.trust_remote_code,
        max_model_len=order.max_model_len,
        enable_prefix_caching=False,
        kv_cache_memory_bytes=KV_CACHE_BYTES,
        disable_log_stats=True,
        seed=0,
        **options,
    )
    return llm, time.perf_counter() - started


def _check_handwritten(model: Path) -> None:
    """Raise NotThere where vLLM would run the architecture through transformers."""
    from vllm.model_executor.models.registry import _VLLM_MODELS

    names = json.loads((model / "config.json").read_text()).get("architectures") or []
    own = [
        n for n in names if n in _VLLM_MODELS and _VLLM_MODELS[n][0] != "transformers"
    ]
    if not own:
        raise NotThere(f"vLLM has no model of its own for {', '.join(names)}")


def _facts(llm: Any) -> dict[str, Any]:
    from porter.vllm_engine.worker import count_fused

    model = llm.apply_model(lambda model: model)[0]
    kind = type(model)
    return {
        "fused": count_fused(model),
        "class": f"{kind.__module__}.{kind.__qualname__}",
    }


def _generate(
    vllm: Any, llm: Any, prompts: list[list[int]], new_tokens: int
) -> list[list[int]]:
    params = vllm.SamplingParams(
        temperature=0.0, max_tokens=new_tokens, ignore_eos=True, detokenize=False
    )
    asked = [{"prompt_token_ids": prompt} for prompt in prompts]
    outputs = llm.generate(asked, params, use_tqdm=False)
    return [list(out.outputs[0].token_ids) for out in outputs]
