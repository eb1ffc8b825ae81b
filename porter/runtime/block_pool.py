"""Blocks that several sequences can share: a pool that knows what its blocks hold.

A full block is known by a hash of its tokens and of all tokens before them. It stays
known after its last reader is gone, until the block is needed for something else;
blocks that hold nothing go first, then those that have been unused the longest.
"""

import hashlib
from array import array
from collections import OrderedDict


class CachingBlockPool:
    """Hands out block numbers 0 .. num_blocks - 1, as `BlockPool` does.

    keeps: whether contents are to be remembered at all.
    """

    def __init__(self, num_blocks: int, keeps: bool = True) -> None:
        self.num_blocks = num_blocks
        self.keeps = keeps
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))
        self._readers = [0] * num_blocks
        self._hash_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}

    @property
    def num_free(self) -> int:
        """Blocks without a reader, those that hold something included."""
        return len(self._free)

    def extend(self, blocks: list[int], expected: int) -> None:
        """Append one free block to a sequence's blocks; there must be one."""
        block, _ = self._free.popitem(last=False)
        held = self._hash_of.pop(block, None)
        if held is not None:
            del self._block_of[held]
        self._readers[block] = 1
        blocks.append(block)

    def release(self, blocks: list[int]) -> None:
        """One reader of each block is gone.

        The end of a prefix is forgotten before its beginning, without which it is of
        no use.
        """
        for block in reversed(blocks):
            self._readers[block] -= 1
            if self._readers[block] == 0:
                self._free[block] = None
                if block not in self._hash_of:
                    self._free.move_to_end(block, last=False)

    def share(self, hashes: list[bytes]) -> list[int]:
        """The blocks of the longest known beginning of hashes, now read once more."""
        found: list[int] = []
        for each in hashes:
            block = self._block_of.get(each)
            if block is None:
                break
            if self._readers[block] == 0:
                del self._free[block]
            self._readers[block] += 1
            found.append(block)
        return found

    def remember(self, block: int, content: bytes) -> None:
        """The block is full, of the tokens that were hashed to content.

        Where another block holds the same, that one stays the known one.
        """
        if content not in self._block_of and block not in self._hash_of:
            self._block_of[content] = block
            self._hash_of[block] = content


def block_hash(before: bytes, tokens: list[int]) -> bytes:
    """Of a full block; before: the hash of the block in front of it, b"" for none.

    Equal hashes are taken for equal tokens, so the hash is a cryptographic one.
    """
    digest = hashlib.blake2b(before, digest_size=16)
    digest.update(array("q", tokens).tobytes())
    return digest.digest()
