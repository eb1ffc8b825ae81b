"""Compile every kernel for an H200 on a machine without one, and say what became of it.

    python -m tests.kernels.compiled [--json]

The launchers run as they are, on CPU tensors; only the launch itself is left out.
Registers, spills and matrix instructions are read from the machine code.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "0"

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

TARGET = GPUTarget("cuda", 90, 32)
_TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"


@dataclass(frozen=True)
class Compiled:
    """registers: of a thread. stack: bytes of local memory. products: kinds of matrix
    instruction. shared: bytes of shared memory of a program. async_copies: whether
    tiles are loaded ahead. before_turn: whether it asks for memory while the kernel in
    front of it still runs. products_overlap: whether it waits for one product of two that
    are under way, which the compiler takes back where registers don't suffice."""

    case: str
    kernel: str
    warps: int
    registers: int
    stack: int
    spills: int
    shared: int
    products: tuple[str, ...]
    async_copies: bool
    before_turn: bool
    products_overlap: bool


class _NoDevice:
    """Enough of a driver to compile for TARGET."""

    def get_current_target(self) -> GPUTarget:
        return TARGET

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> Any:
        return "cpu"


@contextmanager
def collected() -> Iterator[list[tuple[str, Any]]]:
    """Launches inside the block compile only; what they compiled is listed."""
    found: list[tuple[str, Any]] = []
    original = JITFunction.__getitem__

    def compile_only(self: Any, grid: Any) -> Callable[..., None]:
        def launch(*args: Any, **options: Any) -> None:
            found.append(
                (self.__name__, self.run(*args, grid=grid, warmup=True, **options))
            )

        return launch

    driver.set_active(_NoDevice())
    JITFunction.__getitem__ = compile_only
    try:
        yield found
    finally:
        JITFunction.__getitem__ = original


def describe(case: str, name: str, kernel: Any) -> Compiled:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(kernel.asm["cubin"])
        usage = _run("cuobjdump", "-res-usage", path)
        code = _run("nvdisasm", "-c", path)
    return Compiled(
        case,
        name,
        kernel.metadata.num_warps,
        int(_number(r"REG:(\d+)", usage)),
        int(_number(r"STACK:(\d+)", usage)),
        len(re.findall(r"\b(?:LDL|STL)\b", code)),
        kernel.metadata.shared,
        tuple(sorted(set(re.findall(r"\b(HGMMA|HMMA|IMMA)\b", code)))),
        "LDGSTS" in code or "UTMALDG" in code,
        _loads_before_turn(kernel.asm["ptx"]),
        "WARPGROUP.DEPBAR.LE gsb0, 0x1" in code,
    )


def _loads_before_turn(ptx: str) -> bool:
    """Whether tiles are asked for between the wait of programs that read the newest key
    at once and the wait of all others."""
    waits = ptx.split("griddepcontrol.wait")
    return len(waits) > 2 and "cp.async" in waits[1]


def _run(tool: str, *arguments: Any) -> str:
    command = [str(_TOOLS / tool), *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _number(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match, f"no {pattern} in {text}"
    return match[1]


def compile_all(cases: dict[str, Callable[[], None]]) -> list[Compiled]:
    with collected() as found:
        described = []
        for case, launch in cases.items():
            found.clear()
            launch()
            described += [describe(case, name, kernel) for name, kernel in found]
    return described


def main() -> None:
    from tests.kernels.compile_cases import CASES

    results = [asdict(result) for result in compile_all(CASES)]
    if "--json" in sys.argv:
        print(json.dumps(results))
        return
    for r in results:
        print(
            f"{r['case']:34} {r['kernel']:22} warps {r['warps']:2} regs "
            f"{r['registers']:3} spills {r['spills']:3} stack {r['stack']:4} "
            f"shared {r['shared']:6} {','.join(r['products'])} "
            f"{'async' if r['async_copies'] else ''}"
        )


if __name__ == "__main__":
    main()
