"""Blocks that sequences share, and what is forgotten first."""

from porter.runtime.block_pool import CachingBlockPool, block_hash


def test_hashes_depend_on_all_tokens_before() -> None:
    first = block_hash(b"", [1, 2])
    assert first == block_hash(b"", [1, 2])
    assert len({first, block_hash(b"", [2, 1]), block_hash(first, [1, 2])}) == 3
    assert block_hash(b"", [1, 256]) != block_hash(b"", [257, 0])


def filled(pool: CachingBlockPool, names: str) -> list[int]:
    blocks: list[int] = []
    for name in names:
        pool.extend(blocks, len(names))
        pool.remember(blocks[-1], name.encode())
    return blocks


def hashes(names: str) -> list[bytes]:
    return [name.encode() for name in names]


def test_a_known_beginning_is_shared_while_read_and_after() -> None:
    pool = CachingBlockPool(6)
    first = filled(pool, "abc")
    assert pool.share(hashes("abx")) == first[:2] and pool.num_free == 3
    pool.release(first)
    assert pool.num_free == 4  # two are read still
    assert pool.share(hashes("abc")) == first and pool.num_free == 3
    assert pool.share(hashes("bc")) == first[1:]
    assert pool.share(hashes("xa")) == []


def test_empty_blocks_go_first_then_the_ends_of_old_sequences() -> None:
    pool = CachingBlockPool(5)
    old, new = filled(pool, "ab"), filled(pool, "c")
    pool.release(old)
    pool.release(new)
    taken: list[int] = []
    for _ in range(2):
        pool.extend(taken, 5)
    assert not set(taken) & {*old, *new}
    pool.extend(taken, 5)
    assert taken[-1] == old[1]
    assert pool.share(hashes("ab")) == old[:1]
    assert pool.share(hashes("c")) == new and pool.num_free == 0
    pool.release(taken)
    pool.release(old[:1])
    pool.release(new)
    assert pool.num_free == 5


def test_equal_blocks_are_known_once() -> None:
    pool = CachingBlockPool(4)
    first, second = filled(pool, "a"), filled(pool, "a")
    pool.release(second)
    assert pool.share(hashes("a")) == first
