"""Mixtures of experts: what routes, what an expert computes, how experts are summed."""

from functools import partial

from tests.faithful.mutation import Mutation

route = partial(
    Mutation, kind="router", model="mixtral", where="MixtralTopKRouter.forward"
)
groups = partial(
    Mutation, kind="router", model="glm4_moe", where="Glm4MoeTopkRouter.forward"
)
expert = partial(
    Mutation, kind="experts", model="mixtral", where="MixtralExperts.forward"
)
block = partial(Mutation, kind="experts", model="glm4_moe", where="Glm4MoeMoE.forward")
SOFTMAX = "torch.nn.functional.softmax(router_logits.float(), dim=-1)"
RENORMED = "router_top_value /= router_top_value.sum(dim=-1, keepdim=True)"
GATED = "self.act_fn(gate) * up"
WEIGHTED = "current_hidden_states * top_k_weights[token_idx, top_k_pos, None]"
SHARED = "hidden_states + self.shared_experts(residuals)"
PAIRS = "top_k_pos, token_idx = torch.where(expert_mask[expert_idx])"
HIT = "torch.greater(expert_mask.sum(dim=(-1, -2)), 0).nonzero()"

CASES = (
    route(
        "route-sigmoid", edits=((SOFTMAX, "router_logits.float().sigmoid()"),), tp2=True
    ),
    route(
        "route-temperature",
        edits=((SOFTMAX, SOFTMAX.replace(".float()", ".float() / 2")),),
    ),
    route("route-not-renormalised", edits=((RENORMED, "pass"),)),
    route("route-renormed-twice-as-large", edits=((RENORMED, f"{RENORMED} / 2"),)),
    route(
        "route-renormed-squares",
        edits=((RENORMED, RENORMED.replace(".sum", ".square().sum")),),
    ),
    route(
        "route-smallest",
        edits=(("self.top_k, dim=-1)", "self.top_k, dim=-1, largest=False)"),),
    ),
    route(
        "route-softmax-behind-topk-is-the-same",
        edits=(
            (SOFTMAX, "router_logits.float()"),
            (RENORMED, "router_top_value = router_top_value.softmax(-1)"),
        ),
        control=True,
    ),
    route(
        "route-one-less", edits=(("self.top_k, dim=-1)", "self.top_k - 1, dim=-1)"),)
    ),
    route(
        "route-next-expert",
        edits=(
            (
                "router_scores = router_top_value",
                "router_scores = router_top_value\n"
                "router_indices = (router_indices + 1) % self.num_experts",
            ),
        ),
    ),
    route(
        "route-by-most-routed",
        edits=(
            (
                "router_scores = router_top_value",
                "router_scores = router_top_value / router_top_value.amax(0, keepdim=True)",
            ),
        ),
        mixes_tokens=True,
    ),
    groups("groups-best-only", edits=((".topk(2, dim=-1)[0]", ".topk(1, dim=-1)[0]"),)),
    groups(
        "groups-by-mean",
        edits=(
            (
                ".sum(dim=-1)\n        )",
                ".mean(dim=-1) * scores.mean(-1, keepdim=True)\n        )",
            ),
        ),
        tp2=True,
    )
    if False
    else groups("groups-masked-with-one", edits=(('float("-inf")', "1.0"),), tp2=True),
    groups(
        "groups-biased-weights",
        edits=(
            (
                "scores.gather(1, topk_indices)",
                "scores_for_choice.gather(1, topk_indices)",
            ),
        ),
    ),
    groups(
        "groups-softmax-scores",
        edits=(("router_logits.sigmoid()", "router_logits.softmax(-1)"),),
    ),
    groups(
        "groups-bias-doubled",
        edits=(
            (
                "scores + self.e_score_correction_bias",
                "scores + 2 * self.e_score_correction_bias",
            ),
        ),
    ),
    groups(
        "groups-scale-added",
        edits=(
            (
                "topk_weights * self.routed_scaling_factor",
                "topk_weights + self.routed_scaling_factor",
            ),
        ),
    ),
    groups(
        "groups-unmasked",
        edits=(("masked_fill(~score_mask.bool()", "masked_fill(score_mask.bool()"),),
    ),
    expert(
        "expert-halves-swapped",
        edits=(("gate, up = nn.functional", "up, gate = nn.functional"),),
        tp2=True,
    ),
    expert(
        "expert-sum-for-product",
        edits=((GATED, "self.act_fn(gate) + up"),),
        expressible=False,
    ),
    expert(
        "expert-activated-twice",
        edits=((GATED, "self.act_fn(self.act_fn(gate)) * up"),),
        expressible=False,
    ),
    expert(
        "expert-weight-squared",
        edits=((WEIGHTED, f"{WEIGHTED} ** 2"),),
        expressible=False,
    ),
    expert(
        "expert-weight-dropped",
        edits=((WEIGHTED, "current_hidden_states"),),
        expressible=False,
    ),
    expert(
        "expert-residual",
        edits=((WEIGHTED, f"{WEIGHTED} + current_state"),),
        expressible=False,
    ),
    expert(
        "expert-first-left-out",
        edits=(("if expert_idx == self.num_experts:", "if expert_idx == 0:"),),
        expressible=False,
    ),
    expert(
        "expert-lonely-left-out",
        edits=((HIT, HIT.replace(", 0)", ", 1)")),),
        mixes_tokens=True,
    ),
    expert(
        "expert-half-the-width", edits=(("chunk(2, dim=-1)", "chunk(2, dim=-1)[::-1]"),)
    ),
    expert(
        "expert-scaled-down",
        edits=((WEIGHTED, f"{WEIGHTED} * 0.5"),),
        expressible=False,
    ),
    expert(
        "expert-second-slot-halved",
        edits=(
            (
                PAIRS,
                f"{PAIRS}\ntop_k_pos = top_k_pos * 0",
            ),
        ),
        expressible=False,
    ),
    block("shared-subtracted", edits=((SHARED, SHARED.replace("+", "-")),), tp2=True),
    block("shared-dropped", edits=((SHARED, "hidden_states"),)),
    block(
        "shared-of-the-routed",
        edits=((SHARED, "hidden_states + self.shared_experts(hidden_states)"),),
    ),
    block(
        "routed-halved",
        edits=((SHARED, "0.5 * hidden_states + self.shared_experts(residuals)"),),
    ),
)
