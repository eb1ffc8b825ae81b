"""Port files as vLLM's out-of-tree models, in this process and in every worker.

vLLM's ranks are processes of their own that import everything anew. A class registered
in the parent alone would there be replaced, without a word, by vLLM's own of the same
name. So there is an entry point of the group `vllm.general_plugins`, which vLLM calls in
each process: a folder on PYTHONPATH with a distribution's metadata and nothing else, and
the files to register in an environment variable. The bytes are those of the file given.
"""

import atexit
import hashlib
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType

PORTS = "PORTER_VLLM_PORTS"  # JSON: class name -> path of the file with it
NAME = "porter_ports"


def register_ports() -> None:
    """The entry point: register the files that the environment names.

    Called by vLLM in each process, and here in the parent; idempotent.
    """
    from vllm import ModelRegistry

    # With the ports comes the loader that keeps account of what they load.
    import porter.vllm_engine.loading  # noqa: F401

    for architecture, path in json.loads(os.environ.get(PORTS, "{}")).items():
        module = load_module(Path(path))
        ModelRegistry.register_model(architecture, getattr(module, architecture))


def load_module(path: Path) -> ModuleType:
    """The file as a module, named after its content and loaded once a process.

    torch.compile and vLLM look a class's module up by name, so it is in sys.modules.
    """
    name = f"porter_port_{path.stem}_{digest(path)[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def digest(path: Path) -> str:
    """SHA-256 of the file's bytes, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def registered(ports: dict[str, Path]) -> Iterator[None]:
    """The ports (class name -> file) in vLLM's registry, here and in new processes.

    What the registry had under these names is restored at the end.
    """
    from vllm import ModelRegistry
    from vllm.model_executor.model_loader.utils import _MODEL_ARCH_BY_HASH

    _make_discoverable()
    models = ModelRegistry.models
    # vLLM remembers which class a config of some content had in this process.
    _MODEL_ARCH_BY_HASH.clear()
    before = {name: models.get(name) for name in ports}
    previous = os.environ.get(PORTS)
    files = {name: str(Path(path).resolve()) for name, path in ports.items()}
    os.environ[PORTS] = json.dumps(files)
    try:
        register_ports()
        yield
    finally:
        _MODEL_ARCH_BY_HASH.clear()
        if previous is None:
            os.environ.pop(PORTS, None)
        else:
            os.environ[PORTS] = previous
        for name, model in before.items():
            if model is None:
                models.pop(name, None)
            else:
                models[name] = model


@cache
def _make_discoverable() -> None:
    """Put the metadata of the entry point where this and new processes look for it."""
    folder = Path(tempfile.mkdtemp(prefix="porter-vllm-plugin-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    info = folder / f"{NAME}-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 0\n")
    (info / "entry_points.txt").write_text(
        f"[vllm.general_plugins]\n{NAME} = {__name__}:{register_ports.__name__}\n"
    )
    sys.path.append(str(folder))
    # The workers need porter too, which may be here by the current folder alone.
    porter = str(Path(__file__).resolve().parents[2])
    paths = [os.environ.get("PYTHONPATH"), str(folder), porter]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    allowed = os.environ.get("VLLM_PLUGINS")
    if allowed is not None and NAME not in allowed.split(","):
        os.environ["VLLM_PLUGINS"] = f"{allowed},{NAME}"
