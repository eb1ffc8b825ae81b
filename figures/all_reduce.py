"""Sums over GPUs: peer memory in one and two shots beside NCCL, in one run.

    python figures/all_reduce.py [--ranks N] [--json FILE]

Each is captured as a graph of many calls, so that no launch waits for the host. The sums
are compared with NCCL's, bf16, and over graphs that are run again.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SIZES = [1 << bits for bits in range(12, 22)]  # elements
_CALLS = 20
_REPEATS = 9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=torch.cuda.device_count())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.ranks < 2:
        sys.exit("it takes two GPUs")
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(
            _rank, (options.ranks, folder, options.json), nprocs=options.ranks
        )


def _rank(rank: int, world: int, folder: str, path: Path | None) -> None:
    from porter.console import print_table, say
    from porter.runtime import peer_memory

    torch.cuda.set_device(rank)
    dist.init_process_group(
        "nccl", init_method=f"file://{folder}/store", world_size=world, rank=rank
    )
    peer_memory.HALF = max(SIZES)
    group = dist.group.WORLD
    memory = peer_memory.join_peer_memory(group, tuple(range(world)))
    if memory is None:
        sys.exit("these GPUs can't read each other's memory")
    rows: list[dict[str, Any]] = []
    for count in SIZES:
        rows.append(_measure(memory, count, rank, world))
    if rank == 0:
        say(f"{world} x {torch.cuda.get_device_name()}, bf16, us a sum")
        heads = ["KiB", "one shot", "two shots", "nccl", "nccl / ours"]
        cells = [
            (f"{r['bytes'] / 1024:.0f}", f"{r['one_us']:.1f}", f"{r['two_us']:.1f}",
             f"{r['nccl_us']:.1f}", f"{r['nccl_us'] / min(r['one_us'], r['two_us']):.2f}")
            for r in rows
        ]  # fmt: skip
        print_table(heads, cells, right=heads)
        if path:
            path.write_text(json.dumps(rows, indent=1))
    dist.destroy_process_group()


def _measure(memory: Any, count: int, rank: int, world: int) -> dict[str, Any]:
    torch.manual_seed(rank)
    x = torch.randn(count, device="cuda", dtype=torch.bfloat16)
    summed = x.clone()
    dist.all_reduce(summed)
    row: dict[str, Any] = {"bytes": x.numel() * x.element_size()}
    for name, two_shot in (("one", False), ("two", True)):
        output = torch.empty_like(x)

        def ours(two_shot: bool = two_shot, output: torch.Tensor = output) -> None:
            memory.launch(x, output, two_shot)

        output.fill_(float("nan"))
        row[f"{name}_us"] = _microseconds(ours)
        error = (output.float() - summed.float()).norm() / summed.float().norm()
        # Two ranks' sum has one order; of more, NCCL adds in another and rounds between.
        if not float(error) <= (0.0 if world == 2 else 1e-2):
            sys.exit(f"{name}, {count} elements: another sum, by {float(error)}")
    work = x.clone()
    row["nccl_us"] = _microseconds(lambda: dist.all_reduce(work))
    return row


def _microseconds(call: Any) -> float:
    """Of one call, the median of several timings; the slowest rank's.

    Not `gpu_clock.seconds_a_call`: it chooses how often to call, and ranks must agree.
    """
    call()
    torch.cuda.synchronize()
    dist.barrier()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(_CALLS):
            call()
    times = []
    for _ in range(_REPEATS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        dist.barrier()
        torch.cuda.synchronize()
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3 / _CALLS)
    median = torch.tensor(sorted(times)[_REPEATS // 2], device="cuda")
    dist.all_reduce(median, dist.ReduceOp.MAX)
    return float(median)


if __name__ == "__main__":
    main()
