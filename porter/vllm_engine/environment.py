"""What vLLM reads from the environment, set before it is imported.

A user's own value of any of these wins.
"""

import importlib
import importlib.util
import os
from typing import Any

from porter.gap import CannotRun
from porter.vllm_engine.output import keep_quiet

SETTINGS = {
    # The engine in this process: one process can make many, and TP 1 needs no other.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # Its CPU build binds threads to cores that the ranks would have to share.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    # Ranks meet on this machine; without it vLLM asks the network for its own address.
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    # Checkpoints are folders; a name that is no folder must not become a download.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    # Compilers in a pool of processes don't survive a fork of this one.
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
}

# What vLLM imports when its first engine starts. Imported here, processes forked from
# this one have it: `zoo` forks one for each model.
FIRST_ENGINE = (
    "vllm.entrypoints.llm",
    "vllm.v1.engine.llm_engine",
    "vllm.v1.engine.core",
    "vllm.v1.executor.multiproc_executor",
    "vllm.v1.executor.uniproc_executor",
    "vllm.v1.worker.gpu_model_runner",
    "porter.vllm_engine.loading",
)

HOW_TO_INSTALL = "no vLLM is installed beside porter; the README says how to install it"


def is_installed() -> bool:
    """Whether there is a vLLM to import, which is not imported."""
    return importlib.util.find_spec("vllm") is not None


def require_vllm() -> Any:
    """The imported vLLM, set up for engines in this process.

    Raises CannotRun where it isn't installed or its import fails, with its own words.
    """
    if not is_installed():
        raise CannotRun(f"--engine vllm: {HOW_TO_INSTALL}")
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    with keep_quiet() as log:
        try:
            vllm = importlib.import_module("vllm")
            for name in FIRST_ENGINE:
                importlib.import_module(name)
            return vllm
        except Exception as error:  # whatever its many dependencies raise
            raise CannotRun(
                f"--engine vllm: vLLM can't be imported: {log.cause(error)}"
            ) from error
