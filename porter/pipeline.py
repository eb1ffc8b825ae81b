"""The compiler on one page: the transforms, in the order in which they run."""

from porter.analyze.model import Facts
from porter.transforms.base import Change, Transform
from porter.transforms.cache_expanded import CacheExpanded
from porter.transforms.flatten_tokens import FlattenTokens
from porter.transforms.fuse_gate_up import FuseGateUp
from porter.transforms.fuse_qkv import FuseQkv
from porter.transforms.fuse_residual_norms import FuseResidualNorms
from porter.transforms.keep_rope import KeepRope
from porter.transforms.lift_embedding import LiftEmbedding
from porter.transforms.place_parallel import PlaceParallel
from porter.transforms.share_caches import ShareCaches
from porter.transforms.sink_layer_values import SinkLayerValues
from porter.transforms.substitute_attention import SubstituteAttention
from porter.transforms.substitute_experts import SubstituteExperts
from porter.transforms.substitute_latent import SubstituteLatent
from porter.transforms.substitute_logits import SubstituteLogits
from porter.transforms.substitute_norms import SubstituteNorms
from porter.transforms.substitute_rope import SubstituteRope

TRANSFORMS: tuple[type[Transform], ...] = (
    # substitute: what the engine must own, then what its layers do as well
    CacheExpanded,
    SubstituteAttention,
    SubstituteExperts,
    SubstituteRope,
    KeepRope,
    SinkLayerValues,
    SubstituteNorms,
    # fuse: several matrices of one input are one
    FuseQkv,
    FuseGateUp,
    # place: each layer by how its values can be sharded
    SubstituteLogits,
    PlaceParallel,
    # choose: attention in the form that the engine's cache has
    SubstituteLatent,
    # flatten: batch and sequence become the one token axis
    FlattenTokens,
    ShareCaches,
    # thread: what vLLM asks the model's classes for
    LiftEmbedding,
    # add: last, as it settles whose memory is written over
    FuseResidualNorms,
)


def run(facts: Facts, without: tuple[str, ...] = ()) -> list[Change]:
    """without: the transforms whose layers the release doesn't have."""
    changes: list[Change] = []
    for transform in TRANSFORMS:
        if transform.name() not in without:
            transform(facts, changes).apply()
    return changes
