"""Where the surface of an older vLLM release differs from the bundled one, by release."""

import re
from typing import Any

from torch import nn

from porter.gap import CannotRun
from porter.profiles import DEFAULT
from porter.runtime.accounting import current_account
from porter.runtime.models.weights import AutoWeightsLoader, Weights, WeightsMapper

_REGENERATE = re.compile(r"^# Regenerate: porter convert .*--vllm (\S+)$", re.MULTILINE)


class SkippingWeightsLoader(AutoWeightsLoader):
    """The loader up to vLLM 0.26: what is tied isn't found out, the port tells it.

    skip_prefixes, skip_substrs: of names, as the mapper gives them, that aren't loaded.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        skip_prefixes: list[str] | None = None,
        skip_substrs: list[str] | None = None,
        ignore_unexpected_prefixes: list[str] | None = None,
        ignore_unexpected_suffixes: list[str] | None = None,
    ) -> None:
        super().__init__(
            module,
            ignore_unexpected_prefixes=ignore_unexpected_prefixes,
            ignore_unexpected_suffixes=ignore_unexpected_suffixes,
        )
        self.aliased_params = {}
        self.skip_prefixes, self.skip_substrs = skip_prefixes or [], skip_substrs or []

    def load_weights(
        self, weights: Weights, *, mapper: WeightsMapper | None = None
    ) -> set[str]:
        mapped = (mapper or WeightsMapper()).apply(weights)
        return super().load_weights(self._unskipped(mapped))

    def _unskipped(self, weights: Weights) -> Weights:
        for name, data in weights:
            if any(name.startswith(p) for p in self.skip_prefixes) or any(
                s in name for s in self.skip_substrs
            ):
                current_account().drop(name, data, "skipped by the port")
            else:
                yield name, data


_UTILS = "vllm.model_executor.models.utils"
# release -> module -> name -> what stands there instead
DIFFERENT: dict[str, dict[str, dict[str, Any]]] = {
    DEFAULT: {},
    "0.26": {_UTILS: {"AutoWeightsLoader": SkippingWeightsLoader}},
}


def release_of(text: str) -> str:
    """The release that a port's header names, the default where it names none.

    Raises CannotRun for a release whose contract the bundled engine doesn't keep.
    """
    found = _REGENERATE.search(text)
    release = found[1] if found else DEFAULT
    if release not in DIFFERENT:
        raise CannotRun(
            f"the port is for vLLM {release}; the bundled runtime runs those for "
            + " and ".join(sorted(DIFFERENT))
        )
    return release
