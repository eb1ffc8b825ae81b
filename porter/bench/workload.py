"""What every engine is asked to do: the same random prompts, the same token counts."""

import random
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Workload:
    """`requests` prompts of `shortest` to `longest` tokens, `new_tokens` more for each.

    least_new_tokens: where given, answers have from there to new_tokens tokens. Lengths
    are spread evenly and shuffled: their sum doesn't depend on luck. Tokens are drawn
    from the middle of a vocabulary of `vocab_size`, away from the special ones at its
    ends. first_tokens, alone_tokens: length of the prompt that is sent alone for the time
    to its first and to its later tokens; None: the median of all.
    """

    vocab_size: int
    requests: int = 32
    shortest: int = 16
    longest: int = 256
    new_tokens: int = 64
    seed: int = 0
    least_new_tokens: int | None = None
    first_tokens: int | None = None
    alone_tokens: int | None = None

    @property
    def total_new_tokens(self) -> int:
        return sum(self.counts)

    @cached_property
    def prompts(self) -> list[list[int]]:
        """Token ids, one list a request."""
        chance = random.Random(self.seed)
        lengths = self._spread(self.shortest, self.longest)
        chance.shuffle(lengths)
        return [self._tokens(chance, n) for n in lengths]

    @cached_property
    def counts(self) -> list[int]:
        """How many new tokens each request wants."""
        least = self.new_tokens
        if self.least_new_tokens is not None:
            least = self.least_new_tokens
        counts = self._spread(least, self.new_tokens)
        random.Random(self.seed + 1).shuffle(counts)
        return counts

    def single(self, length: int | None) -> list[int]:
        """A prompt of that length, or the one of median length."""
        if length is not None:
            return self._tokens(random.Random(self.seed + 2), length)
        return sorted(self.prompts, key=len)[len(self.prompts) // 2]

    def _spread(self, least: int, most: int) -> list[int]:
        steps = max(self.requests - 1, 1)
        return [least + i * (most - least) // steps for i in range(self.requests)]

    def _tokens(self, chance: random.Random, count: int) -> list[int]:
        low, high = self.vocab_size // 10, self.vocab_size - 1
        return [chance.randint(low, high) for _ in range(count)]
