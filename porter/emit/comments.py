"""The authors' comments that explain the model go with the statements they stand above."""

import re

from porter.emit.method import Line
from porter.source import SourceFile

_HOUSEKEEPING = (
    "copied from",
    "initialize weights",
    "todo",
    "fixme",
    "type:",
    "noqa",
    "ignore",
)


class Comments:
    """Each comment block is given out once, to the first statement made from its line."""

    def __init__(self, files: list[SourceFile]):
        self.blocks: dict[tuple[str, int], list[str]] = {}
        for file in files:
            lines = file.text.splitlines()
            for line in sorted(file.comments):
                following = line + 1
                while following in file.comments or _is_alias(lines, following):
                    following += 1
                self.blocks.setdefault((file.shown, following), []).append(
                    file.comments[line]
                )

    def weave(self, lines: list[Line]) -> list[Line]:
        out: list[Line] = []
        for line in lines:
            pad = line.text[: len(line.text) - len(line.text.lstrip())]
            places = {(s.file, s.line) for s in line.spans[:1]}
            for place in sorted(places):
                block = self.blocks.pop(place, None)
                if block and not any(
                    word in " ".join(block).lower() for word in _HOUSEKEEPING
                ):
                    out += [Line(pad + text, line.spans) for text in block]
            out.append(line)
        return out


def _is_alias(lines: list[str], number: int) -> bool:
    """`residual = hidden_states`: no statement of its own in a port."""
    text = lines[number - 1] if number <= len(lines) else ""
    return re.fullmatch(r"\s*\w+ = \w+\s*", text) is not None
