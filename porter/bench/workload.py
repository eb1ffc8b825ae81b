"""What every engine is asked to do: the same random prompts, the same token counts."""

import random
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Workload:
    """`requests` prompts of `shortest` to `longest` tokens, `new_tokens` more for each.

    The lengths are spread evenly and shuffled: their sum doesn't depend on luck.
    Tokens are drawn from the middle of a vocabulary of `vocab_size`, away from the
    special ones at its ends.
    """

    vocab_size: int
    requests: int = 32
    shortest: int = 16
    longest: int = 256
    new_tokens: int = 64
    seed: int = 0

    @property
    def total_new_tokens(self) -> int:
        return self.requests * self.new_tokens

    @cached_property
    def prompts(self) -> list[list[int]]:
        """Token ids, one list a request."""
        chance = random.Random(self.seed)
        steps = max(self.requests - 1, 1)
        span = self.longest - self.shortest
        lengths = [self.shortest + i * span // steps for i in range(self.requests)]
        chance.shuffle(lengths)
        low, high = self.vocab_size // 10, self.vocab_size - 1
        return [[chance.randint(low, high) for _ in range(n)] for n in lengths]
