"""What crosses the pipeline stages: the empty tensors that a stage receives into.

Where all of them have one width, vLLM's factory makes them; where a value that the layers
read has other sizes (an input of each layer's own, for example), a method does.
"""

from typing import Any

from porter.analyze.graph import Node, axis_size, has_role, walk
from porter.analyze.symbols import key, same
from porter.analyze.values import Module
from porter.emit.presence import condition_of
from porter.gap import Gap, Refused

_METHOD = """\
    def make_empty_intermediate_tensors(
        self, batch_size: int, dtype: torch.dtype, device: torch.device
    ) -> IntermediateTensors:
        sizes = {{{items}}}
{some}        return IntermediateTensors(
            {{
                name: torch.zeros((batch_size, *size), dtype=dtype, device=device)
                for name, size in sizes.items()
            }}
        )"""


def guard(value: Node, inst: Module, readers: list[Node]) -> Any:
    """The condition under which the model has the modules that make a value, None where
    it always has. Then the layers read it under that condition only, or the source fails.

    Raises Refused where there are several, or a reader that isn't one layer's part of it.
    """
    conds: dict[Any, Any] = {}
    for node in walk([value]):
        module = node.attrs.get("module")
        if isinstance(module, Module) and module.owner is inst:
            cond = condition_of(inst.attrs.get(module.name), module)
            if cond is not None:
                conds[key(cond)] = cond
    if not conds:
        return None
    if len(conds) > 1 or any(r.op != "select" for r in readers):
        what = (
            "a value that only some configs have is read in a way that isn't followed"
        )
        raise Refused([Gap(value.span.file, value.span.line, what)])
    return next(iter(conds.values()))


def token_sizes(value: Node) -> tuple[Any, ...]:
    """The sizes of a value behind its token axes."""
    axes = [a for a in value.axes if not has_role(a, "batch", "seq")]
    return tuple(axis_size(a) for a in axes)


def one_width(sizes: list[tuple[Any, ...]]) -> bool:
    return all(len(s) == 1 and same(s[0], sizes[0][0]) for s in sizes)


def empty_tensors(
    sizes: dict[str, tuple[Any, ...]], guards: dict[str, str], number
) -> str:
    """The method; number(size) is the text of a size in it, guards: name -> the test under
    which there is such a value."""
    shown = {n: f"({', '.join(number(s) for s in size)},)" for n, size in sizes.items()}
    items = ", ".join(f'"{n}": {t}' for n, t in shown.items() if n not in guards)
    some = "".join(
        f'        if {test}:\n            sizes["{n}"] = {shown[n]}\n'
        for n, test in guards.items()
    )
    return _METHOD.format(items=items, some=some)


def sent_on(names: list[str], guards: dict[str, str]) -> list[str]:
    """Statements by which a stage gives these values to the next."""
    always = ", ".join(f'"{n}": {n}' for n in names if n not in guards)
    head = "if not get_pp_group().is_last_rank:"
    if not guards:
        return [head, f"    return IntermediateTensors({{{always}}})"]
    out = [head, f"    tensors = {{{always}}}"]
    for name, test in guards.items():
        out += [f"    if {test}:", f'        tensors["{name}"] = {name}']
    return [*out, "    return IntermediateTensors(tensors)"]
