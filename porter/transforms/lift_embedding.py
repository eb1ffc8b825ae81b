"""The tokens' embedding in a module of its own  ->  in the class that runs the layers.

vLLM asks that class for the embeddings of tokens, and may hand it others instead
(`inputs_embeds`). Where a source looks the tokens up in a module below, together with a
norm or with positions, the look-up is done above, and the module is given its result.

Before: x = self.embeddings(input_ids)          # norm(tok_embeddings(input_ids))
After:  x = self.embeddings(inputs_embeds)      # norm(inputs_embeds)
Leaves: an embedding that the class with the layers looks up itself.
"""

from porter.analyze.graph import Frame, Node
from porter.transforms.base import Transform
from porter.transforms.matching import is_op


class LiftEmbedding(Transform):
    __doc__ = __doc__

    def run(self) -> None:
        found = [n for n in self.nodes() if _of_tokens(n)]
        frame = self._layers_frame()
        if len(found) != 1 or frame is None:
            return
        (node,) = found
        own = node.frame
        below = own is not None and own is not frame and own.is_inside(frame)
        if below and node.attrs["module"].cls is None:
            node.frame = frame
            self.note(node.span, "the class with the layers looks up the tokens")

    def _layers_frame(self) -> Frame | None:
        frames = {
            id(n.attrs["loop"].frame): n.attrs["loop"].frame
            for n in self.nodes()
            if n.op == "loop_exit"
        }
        return next(iter(frames.values())) if len(frames) == 1 else None


def _of_tokens(node: Node) -> bool:
    return node.op == "embedding" and is_op(node.args[0], "input_ids")
