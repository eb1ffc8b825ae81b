"""Where and whether tests with the real vLLM run."""

import pytest

from porter.vllm_engine.environment import is_installed

# Two marks: the tests need it, and one of pytest's workers imports it for all of them.
WITH_VLLM = [
    pytest.mark.skipif(not is_installed(), reason="vLLM isn't installed"),
    pytest.mark.xdist_group("vllm"),
]
