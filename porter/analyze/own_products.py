"""A linear layer's own weight and bias in arithmetic that is written out.

`x @ self.weight.T`, then perhaps `+ self.bias`, inside a class that extends nn.Linear: it
is what the layer does, and is followed as the layer.
"""

from typing import Any

from porter.analyze.graph import Node, axis_size, feature_axis
from porter.analyze.symbols import Sym, is_symbolic, unwrap
from porter.analyze.values import Choice, Module


def product_of_layer(interp, x: Node, weight: Node) -> Node | None:
    """The layer that `x @ weight` is, without its bias; None where it is no layer's."""
    base: Node = weight
    if base.op == "rearrange":
        base = base.args[0]
    module: Any = base.attrs.get("module")
    if base.op != "leaf_parameter" or base.attrs["name"] != "weight":
        return None
    if module.leaf != "torch.nn.Linear":
        return None
    turned = [id(f) for a in weight.axes for f in a] != [
        id(f) for a in base.axes for f in a
    ]
    if turned is module.transposed or len(weight.axes) != 2:
        return None
    if not interp.must_equal(axis_size(x.axes[-1]), module.args["in_features"]):
        return None
    interp.forbid_token_axis(x.axes[-1], "a Linear")
    axes = (*x.axes[:-1], feature_axis(module.args["out_features"]))
    if interp.truth(module.args["bias"]) is False:
        return interp.node("linear", (x,), axes, module=module)
    return interp.node("linear", (x,), axes, module=module, without_bias=True)


def with_own_bias(interp, left: Any, right: Any) -> Node | None:
    """The whole layer, where its own bias is added to its product; else None."""
    for product, bias in ((left, right), (right, left)):
        if not (isinstance(product, Node) and isinstance(bias, Node)):
            return None
        if product.op == "linear" and product.attrs.get("without_bias"):
            own = bias.op == "leaf_parameter" and bias.attrs["name"] == "bias"
            if own and bias.attrs["module"] is product.attrs["module"]:
                module = product.attrs["module"]
                return interp.node("linear", product.args, product.axes, module=module)
    return None


def own_bias(interp, module: Module, bias: Node) -> Any:
    """The bias of a layer that has one if its config says so."""
    given = module.args["bias"]
    if not is_symbolic(given):
        return bias
    verdict = interp.truth(given)
    if isinstance(verdict, bool):
        return bias if verdict else None
    return Choice(verdict, bias, None)


def whole_layer(cond: Any, then: Node, other: Node) -> Node | None:
    """`layer(x) if it has a bias else x @ weight.T` is the layer; None for other joins."""
    holds = True
    cond = unwrap(cond)
    while isinstance(cond, Sym) and cond.op == "not":
        cond, holds = unwrap(cond.args[0]), not holds
    whole, product = (then, other) if holds else (other, then)
    same_layer = (
        product.op == whole.op == "linear"
        and product.attrs.get("without_bias")
        and not whole.attrs.get("without_bias")
        and product.attrs["module"] is whole.attrs["module"]
        and product.args[0] is whole.args[0]
    )
    if not same_layer or not isinstance(cond, Sym) or cond.op != "truthy":
        return None
    given = unwrap(whole.attrs["module"].args["bias"])
    return whole if isinstance(given, Sym) and cond.args[0].key == given.key else None
