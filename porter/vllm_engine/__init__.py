"""The installed vLLM as an engine with the methods of the bundled runtime's `LLM`.

environment.py  what has to be set before vLLM is imported, and whether it is here
ports.py        files registered as out-of-tree models, in this process and in workers
loading.py      vLLM's own loader, with an account of every tensor and parameter
worker.py       questions to each rank: which class ran, what was loaded, logits
llm.py          the engine
output.py       vLLM's log: kept off the screen, read when something fails

Nothing here is imported by `porter convert`, and vLLM only when an engine is made.
"""

from porter.vllm_engine.environment import require_vllm
from porter.vllm_engine.llm import VllmLLM

__all__ = ["VllmLLM", "require_vllm"]
