"""The authors' comments that explain the model go with the statements they stand above."""

import re

from porter.emit.lines import Line
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
        self.files = {file.shown: file for file in files}
        self.blocks: dict[str, dict[int, list[str]]] = {}

    def _blocks_of(self, shown: str) -> dict[int, list[str]]:
        """line -> the block above it, for a file of which a port has a line."""
        if shown not in self.blocks and shown in self.files:
            self.blocks[shown] = _blocks(self.files[shown])
        return self.blocks.get(shown, {})

    def weave(self, lines: list[Line]) -> list[Line]:
        out: list[Line] = []
        for line in lines:
            pad = line.text[: len(line.text) - len(line.text.lstrip())]
            places = {(s.file, s.line) for s in line.spans[:1]}
            for place in sorted(places):
                file, number = place
                block = self._blocks_of(file).pop(number, None)
                if block and not any(
                    word in " ".join(block).lower() for word in _HOUSEKEEPING
                ):
                    out += [Line(pad + text, line.spans) for text in block]
            out.append(line)
        return out


def _blocks(file: SourceFile) -> dict[int, list[str]]:
    blocks: dict[int, list[str]] = {}
    lines = file.text.splitlines()
    for line in sorted(file.comments):
        following = line + 1
        while following in file.comments or _is_alias(lines, following):
            following += 1
        blocks.setdefault(following, []).append(file.comments[line])
    return blocks


def _is_alias(lines: list[str], number: int) -> bool:
    """`residual = hidden_states`: no statement of its own in a port."""
    text = lines[number - 1] if number <= len(lines) else ""
    return re.fullmatch(r"\s*\w+ = \w+\s*", text) is not None
