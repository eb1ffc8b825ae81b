"""The ranks beyond the first: processes that follow the first rank step by step.

They come from a fork server that has torch imported already, so that the second
engine of a program starts at once.
"""

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from porter.gap import CannotRun, UsageError
from porter.runtime.distributed import destroy_groups, init_groups
from porter.runtime.hf_config import make_vllm_config
from porter.runtime.model_runner import ModelRunner
from porter.runtime.step import StepInput

_ERRORS: dict[str, type[Exception]] = {"usage": UsageError, "cannot": CannotRun}


class WorkerGroup:
    """Drives ranks 1 .. n - 1 from the process of rank 0.

    Starting joins rank 0 to the process groups. Raises UsageError when the process
    has joined groups already, and what a worker raised, under its rank.
    """

    def __init__(
        self,
        tp_size: int,
        pp_size: int,
        device_type: str,
        port: str | Path,
        model_dir: str,
        config_options: dict[str, Any],
        runner_options: dict[str, Any],
    ) -> None:
        if dist.is_initialized():
            raise UsageError(
                "this process runs a parallel engine already: shut that one down"
            )
        self.tp_size, self.pp_size = tp_size, pp_size
        world_size = tp_size * pp_size
        self._folder = tempfile.TemporaryDirectory(prefix="porter-ranks-")
        meeting_place = f"file://{self._folder.name}/store"
        self._previous_threads = torch.get_num_threads()
        threads = max(1, self._previous_threads // world_size)
        backend = "nccl" if device_type == "cuda" else "gloo"
        if sys.platform == "linux":
            # All ranks are on this machine; its name may not resolve.
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(
            ["porter.runtime.worker", "transformers.modeling_utils"]
        )
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        for rank in range(1, world_size):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_work,
                args=(theirs, rank, tp_size, pp_size, meeting_place, backend, threads,
                      str(port), model_dir, config_options, runner_options),
                daemon=True,
            )  # fmt: skip
            with main_module_hidden():
                process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        torch.set_num_threads(threads)
        self.groups = init_groups(0, tp_size, pp_size, meeting_place, backend)

    def answers(self) -> list[Any]:
        """What each worker answers next: its weight report once it has its model, and
        the number to the command "blocks"."""
        return [self._answer(i) for i in range(len(self._pipes))]

    def tell(self, command: str, argument: Any) -> None:
        """Give every worker a command; it runs at its own pace."""
        for pipe in self._pipes:
            pipe.send((command, argument))

    def receive_logits(self, device: torch.device) -> torch.Tensor:
        """The logits that the last stage sends."""
        source = (self.pp_size - 1) * self.tp_size
        shape = torch.zeros(2, dtype=torch.long, device=device)
        dist.recv(shape, source)
        logits = torch.empty(shape.tolist(), device=device)
        dist.recv(logits, source)
        return logits

    def raise_failure(self) -> None:
        """Raise what a worker has reported, if any has."""
        for i, pipe in enumerate(self._pipes):
            if pipe.poll(5):
                self._answer(i)

    def _answer(self, index: int) -> Any:
        try:
            kind, value = self._pipes[index].recv()
        except (EOFError, OSError) as error:
            raise CannotRun(f"the process of rank {index + 1} died") from error
        if kind in _ERRORS:
            raise _ERRORS[kind](f"rank {index + 1}: {value}")
        return value

    def shutdown(self) -> None:
        for pipe in self._pipes:
            pipe.close()  # a worker that waits for a command ends on this
        destroy_groups()  # now, as the workers do: NCCL waits for all ranks to leave
        for process in self._processes:
            process.join(timeout=2)
            if process.is_alive():
                process.terminate()
                process.join()
        torch.set_num_threads(self._previous_threads)
        self._folder.cleanup()


@contextmanager
def main_module_hidden() -> Iterator[None]:
    """Keep a starting process from running the program's main file again.

    Workers need nothing of it, and a script then needs no `__main__` guard.
    """
    main = sys.modules["__main__"]
    file, spec = vars(main).pop("__file__", None), getattr(main, "__spec__", None)
    main.__spec__ = None
    try:
        yield
    finally:
        main.__spec__ = spec
        if file is not None:
            main.__file__ = file


def _work(
    pipe: Connection,
    rank: int,
    tp_size: int,
    pp_size: int,
    meeting_place: str,
    backend: str,
    threads: int,
    port: str,
    model_dir: str,
    config_options: dict[str, Any],
    runner_options: dict[str, Any],
) -> None:
    """A worker's life: build, report, then run steps until the pipe closes."""
    torch.set_num_threads(threads)
    runner: ModelRunner | None = None
    try:
        device = torch.device("cpu")
        if backend == "nccl":
            device = torch.device("cuda", rank)
            torch.cuda.set_device(device)
        groups = init_groups(rank, tp_size, pp_size, meeting_place, backend)
        vllm_config = make_vllm_config(Path(model_dir), device=device, **config_options)
        runner = ModelRunner(port, vllm_config, groups=groups, **runner_options)
        pipe.send(("ready", runner.weight_report))
        while True:
            command, argument = pipe.recv()
            match command:
                case "blocks":
                    pipe.send(("ready", runner.choose_num_blocks(argument)))
                case "caches":
                    runner.bind_caches(argument)
                case "graphs":
                    runner.capture_graphs()
                case _:
                    _run_step(runner, argument, tp_size)
    except EOFError:
        pass  # the engine is shut down
    except UsageError as error:
        _tell_failure(pipe, "usage", str(error))
    except CannotRun as error:
        _tell_failure(pipe, "cannot", str(error))
    except Exception as error:
        _tell_failure(pipe, "cannot", f"{type(error).__name__}: {error}")
    finally:
        if runner is not None:
            runner.release_graphs()
        destroy_groups()


def _tell_failure(pipe: Connection, kind: str, message: str) -> None:
    with suppress(OSError):  # the engine gave up first
        pipe.send((kind, message))


def _run_step(runner: ModelRunner, step: StepInput, tp_size: int) -> None:
    logits = runner.run(step)
    if runner.groups.pp.is_first_rank and step.num_chosen:
        runner.receive_tokens(step.num_chosen)
    if logits is None or runner.groups.pp.is_first_rank:
        return
    if dist.get_rank() % tp_size == 0:  # one rank of the last stage speaks for it
        logits = logits.float().contiguous()
        dist.send(torch.tensor(logits.shape, device=logits.device), 0)
        dist.send(logits, 0)
