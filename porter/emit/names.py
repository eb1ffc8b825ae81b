"""Local names in a generated method: the source's own, kept apart while they are alive."""

from porter.analyze.graph import Frame, Node

CANONICAL = {
    "qkv": "qkv",
    "merged_linear": "gate_up",
    "attend": "attn_output",
    "logits": "logits",
    "embedding": "hidden_states",
}


def hinted(node: Node, frame: Frame) -> list[str]:
    """What the source calls a value in this frame, its own function's names first."""
    names = sorted(node.hints.get(id(frame), []), key=lambda item: item[0])
    out: list[str] = []
    for _, name in names:
        if name not in out and name != "_":
            out.append(name)
    return out


def preferred(node: Node, frame: Frame) -> list[str]:
    """Candidate names, best first; empty where the source has none."""
    role = node.attrs.get("role_name")
    if role:
        return [role]
    if node.op in CANONICAL and node.op != "embedding":
        return [CANONICAL[node.op]]
    own = hinted(node, frame)
    return own if own or node.frame is frame else hinted_elsewhere(node)


def hinted_elsewhere(node: Node) -> list[str]:
    """What other modules call a value: how a layer unpacks it, for one."""
    names = [n for each in node.hints.values() for _, n in each if n != "_"]
    return list(dict.fromkeys(names))
