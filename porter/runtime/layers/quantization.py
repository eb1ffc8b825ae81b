"""The quantization types that model files annotate with.

The bundled runtime runs unquantized checkpoints; a port's quantization is exercised
in vLLM.
"""

from typing import Any

from porter.gap import CannotRun


class QuantizationConfig:
    """How a checkpoint is quantized; None everywhere in the bundled runtime."""


class QuantizeMethodBase:
    """How one layer's weights are made and applied."""


def refuse_quantization(quant_config: Any, prefix: str) -> None:
    """CannotRun when a layer is given a quantization."""
    if quant_config is not None:
        raise CannotRun(
            f"layer {prefix or '(no prefix)'} is quantized: "
            "the bundled runtime runs unquantized weights only"
        )
