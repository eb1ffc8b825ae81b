"""How near a tie the model's own choices are: the k largest of some values.

A router takes the experts with the k largest scores, an indexer the tokens. Two programs
that compute the same round otherwise in the last digits; where the k-th value and the
next are that near, one may choose another expert, and all that follows differs without
a fault in either. So the reference is watched for how near its choices come.
"""

import math
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

# Of the values' spread: what rounding moves a score by (about 1e-6 of it was seen in
# float32, after several layers up to 1e-5), and room.
LEAST_CHOICE = 3e-5


class WatchChoices(TorchFunctionMode):
    """While it is entered, every `topk` is looked at, and `max` along an axis.

    margin: the smallest distance of the last value taken and the first left out, as a
    fraction of the standard deviation of the values chosen among; None before any.
    """

    margin: float | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (torch.topk, torch.Tensor.topk):
            self._see(*args, **kwargs)
        elif func in (torch.max, torch.Tensor.max):
            dim = args[1] if len(args) > 1 else kwargs.get("dim")
            if isinstance(dim, int):  # not the elementwise one, nor that of all values
                self._see(args[0], 1, dim)
        return func(*args, **kwargs)

    def _see(self, values: torch.Tensor, k: int, dim: int = -1, **_: Any) -> None:
        if not values.is_floating_point() or k >= values.shape[dim] or k < 1:
            return
        values = values.detach().float().movedim(dim, -1)
        last, next_one = values.topk(k + 1, dim=-1).values[..., -2:].unbind(-1)
        finite = values.isfinite()
        spread = torch.where(finite, values, torch.nan)
        spread = (spread - spread.nanmean(-1, keepdim=True)).square().nanmean(-1).sqrt()
        # What is left out by a mask is far away. Values that are the same are constants
        # of a mask's, which rounding doesn't part.
        gap = (last - next_one) / spread
        gap = gap[gap.isfinite() & (gap > 0)]
        if gap.numel():
            nearest = float(gap.min())
            self.margin = min(nearest, math.inf if self.margin is None else self.margin)


def nearest_choice(margins: list[float | None]) -> float | None:
    """The smallest of the margins, None where nothing was chosen."""
    return min((m for m in margins if m is not None), default=None)


def is_near(margin: float | None) -> bool:
    """Whether rounding may choose otherwise."""
    return margin is not None and margin < LEAST_CHOICE
