"""Tiles in shared memory that one warp loads and groups of warps use, on Hopper.

A ring has a few places. What comes as number `count` into it lies in place count modulo
their number. Of each place's two barriers, one says that the tile is there, the other
that all its readers are done with it (PTX ISA, "mbarrier"; a barrier's phase is whether
it was passed an odd number of times).
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma

ROWS = gl.constexpr(64)  # queries of a group of warps
TILE = gl.constexpr(128)  # keys
STAGES = gl.constexpr(2)
LINE = gl.constexpr(64)  # elements of the 128 bytes that the copy engine swizzles
_LAYOUT = gl.constexpr(gl.NVMMASharedLayout(128, 16, rank=2))


@gluon.jit
def ring(DTYPE: gl.constexpr, SHAPE: gl.constexpr, READERS: gl.constexpr):
    """Places for SHAPE[0] tiles, a barrier for what is in each and one for that it is
    free again, which takes READERS to say so."""
    PLACES: gl.constexpr = SHAPE[0]
    tiles = gl.allocate_shared_memory(DTYPE, SHAPE, _LAYOUT)
    full = gl.allocate_shared_memory(gl.int64, [PLACES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [PLACES, 1], mbarrier.MBarrierLayout())
    for place in gl.static_range(PLACES):
        mbarrier.init(full.index(place), count=1)
        mbarrier.init(empty.index(place), count=READERS)
    return tiles, full, empty


@gluon.jit
def arrived(ring, count):
    """The tile that comes as number `count` into a ring of places."""
    tiles, full, empty = ring
    mbarrier.wait(full.index(count % STAGES), (count // STAGES) & 1)
    return tiles.index(count % STAGES)


@gluon.jit
def release(ring, count):
    """This reader is done with what came as number `count`."""
    tiles, full, empty = ring
    mbarrier.arrive(empty.index(count % STAGES))


@gluon.jit
def load_queries(descriptor, ring, turn, head, token):
    """Ask for the queries of both groups, when those of the turn before are done with."""
    tiles, full, empty = ring
    SIZE: gl.constexpr = tiles.shape[2]
    for half in gl.static_range(2):
        mbarrier.wait(empty.index(half), (turn & 1) ^ 1)
        mbarrier.expect(full.index(half), ROWS * SIZE * 2)
        boxes = tiles.index(half)._reinterpret(
            tiles.dtype, [SIZE // LINE, 1, ROWS, LINE], descriptor.layout
        )
        for line in gl.static_range(SIZE // LINE):
            tma.async_copy_global_to_shared(
                descriptor, [head, token + half * ROWS, line * LINE],
                full.index(half), boxes.index(line),
            )  # fmt: skip


@gluon.jit
def load_tile(
    descriptor, ring, count, tile, head, table, last_page, PAGE: gl.constexpr
):
    """Ask for a tile of keys or values, page by page, when its place is free."""
    tiles, full, empty = ring
    SIZE: gl.constexpr = tiles.shape[2]
    SLOTS: gl.constexpr = descriptor.block_shape[2]
    PARTS: gl.constexpr = TILE // SLOTS
    place = count % STAGES
    mbarrier.wait(empty.index(place), ((count // STAGES) & 1) ^ 1)
    mbarrier.expect(full.index(place), TILE * SIZE * 2)
    boxes = tiles.index(place)._reinterpret(
        tiles.dtype, [SIZE // LINE * PARTS, 1, 1, SLOTS, LINE], descriptor.layout
    )
    for part in gl.static_range(PARTS):
        slot = tile * TILE + part * SLOTS
        page = gl.load(table + gl.minimum(slot // PAGE, last_page))
        for line in gl.static_range(SIZE // LINE):
            tma.async_copy_global_to_shared(
                descriptor, [page, head, slot % PAGE, line * LINE],
                full.index(place), boxes.index(line * PARTS + part),
            )  # fmt: skip
