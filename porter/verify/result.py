"""What `porter verify` found, and its JSON."""

import json
import math
from dataclasses import dataclass, field
from typing import Any

VERSION = 1  # of the JSON below; raised when a key changes its meaning


@dataclass(frozen=True)
class VerifyResult:
    """One verification of a port against its reference.

    logits_rel_rmse: of all prefill logits, the worst prompt's. tokens_equal: one a
    prompt. first_divergence: module path of the first output that differs, where
    something differs and it could be found. ep: whether experts were spread whole over
    the tp ranks. cache_bytes_per_token: kind of attention -> of the first rank's layers
    together, None where the engine doesn't tell; latent attention in both forms. fused:
    kind -> number of modules. seconds: wall time of all of it. invariances: name ->
    whether it held (absent where it doesn't apply). failures: why it didn't pass, in
    words, empty if it did.
    """

    passed: bool
    engine: str
    tp: int
    pp: int
    dtype: str
    logits_rel_rmse: float
    tokens_equal: list[bool]
    logprobs_close: bool
    first_divergence: str | None
    unused_weights: list[str]
    uninitialised_weights: list[str]
    fused: dict[str, int]
    seconds: float
    ep: bool = False
    cache_bytes_per_token: dict[str, int | None] = field(default_factory=dict)
    logprobs_diff: float = 0.0
    ties: list[str] = field(default_factory=list)
    invariances: dict[str, bool] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    checkpoint: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dict: the documented keys, and `version` first.

        A number that isn't finite is null: JSON has no other word for it.
        """
        record: dict[str, Any] = {"version": VERSION}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if isinstance(value, float):
                value = value if math.isfinite(value) else None
            record[name] = value
        return record

    def json_text(self) -> str:
        """`to_json` as text, the keys in their documented order."""
        return json.dumps(self.to_json(), indent=2) + "\n"
