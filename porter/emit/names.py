"""Local names in a generated method: the source's own, kept apart while they are alive."""

from porter.analyze.graph import Frame, Node

CANONICAL = {
    "qkv": "qkv",
    "merged_linear": "gate_up",
    "attend": "attn_output",
    "logits": "logits",
    "embedding": "hidden_states",
}


def hinted(node: Node, frame: Frame | None) -> list[str]:
    """What the source calls a value in this frame, its own function's names first."""
    names = sorted(node.hints.get(frame, []), key=lambda item: item[0])
    out: list[str] = []
    for _, name in names:
        if name not in out and name != "_":
            out.append(name)
    return out


def preferred(node: Node, frame: Frame | None) -> list[str]:
    """Candidate names, best first; empty where the source has none."""
    role = node.attrs.get("role_name")
    if role:
        return [role]
    if node.op in CANONICAL and node.op != "embedding":
        return [CANONICAL[node.op]]
    return hinted(node, frame) or hinted_below(node, frame)


def hinted_below(node: Node, frame: Frame | None) -> list[str]:
    """What the modules that a value is handed to call it."""
    if frame is None:
        return []
    below = [each for f, each in node.hints.items() if f and f.is_inside(frame)]
    return list(dict.fromkeys(n for each in below for _, n in each if n != "_"))
