"""Key and value projections of their own, on more ranks than they have heads.

vLLM's fused projection gives several ranks a copy of one head. Where the projections can't
be fused, each rank computes all key/value heads (there are fewer of them than query heads)
and takes its own right behind the projection. So the port is right at every TP size.
"""

from porter.analyze.graph import Node, dependencies
from porter.transforms.paths import HeadRegion


def can_cut_behind(region: HeadRegion, attend: Node) -> bool:
    """Whether all that reads the projections works head by head, in attention's class."""
    readers = [
        n for n in region.nodes if any(d in region.ends for d in dependencies(n))
    ]
    return (
        not region.mixing
        and all(end.op == "linear" for end in region.ends)
        and all(reader.frame is attend.frame for reader in readers)
    )
