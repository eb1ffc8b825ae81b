"""Cases of the transforms: a few definitions put into a scaffold, and what comes of them.

A case is `fixtures/transforms/<transform>/<case>.py`. Its first part takes the place of
the definitions of the same name in `scaffold.py`: a class with bases the whole class, a
class without bases only the members that it has. New definitions go before the first
class. The second part, if any, starts with one of

    # output            the transform acts, and these classes of the port are so
    # kept              the transform leaves the code alone, and it is printed so
    # gap: message      porter refuses, with this in its message, on the line `# <- here`

Without a second part the transform must leave the case's code alone. Of a class without
bases in the second part only the members that it has are compared.
"""

import ast
import re
import textwrap
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / "fixtures/transforms"
SCAFFOLD = FOLDER / "scaffold.py"
HERE = "# <- here"
_SECTION = re.compile(r"^# (output|kept|gap): ?(.*)\n|^# (output|kept)\n", re.M)

Definition = ast.ClassDef | ast.FunctionDef


@dataclass(frozen=True)
class Case:
    path: Path

    @property
    def transform(self) -> str:
        return self.path.parent.name

    @property
    def name(self) -> str:
        return f"{self.transform}/{self.path.stem}"

    @cached_property
    def parts(self) -> tuple[str, str, str, str]:
        """(input, kind, message, expected); kind is empty where only input stands."""
        text = self.path.read_text(encoding="utf-8")
        found = _SECTION.search(text)
        if found is None:
            return text, "", "", ""
        kind = found[1] or found[3]
        return text[: found.start()], kind, found[2] or "", text[found.end() :]

    @property
    def kind(self) -> str:
        return self.parts[1]

    @cached_property
    def spliced(self) -> tuple[str, frozenset[int]]:
        """The whole source, and the 1-based lines in it that are the case's."""
        return splice(SCAFFOLD.read_text(encoding="utf-8"), self.parts[0])

    @property
    def here(self) -> int:
        """The line that must be refused."""
        lines = self.spliced[0].splitlines()
        (line,) = (i for i, text in enumerate(lines, 1) if text.endswith(HERE))
        return line

    def rewritten(self, port: str) -> str:
        """The case's file, with what the port has now for its expected part."""
        given, kind, _, expected = self.parts
        return f"{given}# {kind}\n{selection(port, expected)}"


def all_cases() -> list[Case]:
    return [Case(path) for path in sorted(FOLDER.glob("*/*.py"))]


# -- putting a case into the scaffold


def splice(scaffold: str, case: str) -> tuple[str, frozenset[int]]:
    """The scaffold with the case's definitions, and the lines that these are on."""
    edits: list[tuple[int, int, str]] = []  # (first line, last line, text), 0-based
    known = {d.name: d for d in ast.parse(scaffold).body if isinstance(d, Definition)}
    start = min(_first(d) for d in known.values())
    for new in ast.parse(case).body:
        name = getattr(new, "name", None)
        old = known.get(name) if name else None
        if old is None:
            edits.append((start, start, _text(case, new) + "\n\n\n"))
        elif isinstance(new, ast.ClassDef) and not new.bases:
            assert isinstance(old, ast.ClassDef)
            edits += _member_edits(case, new, old)
        else:
            edits.append((_first(old), _last(old), _text(case, new) + "\n"))
    return _edited(scaffold.splitlines(True), edits)


def _member_edits(case: str, new: ast.ClassDef, old: ast.ClassDef):
    held = {name: member for member in old.body if (name := member_name(member))}
    for member in new.body:
        name = member_name(member)
        text = textwrap.indent(_text(case, member), "    ") + "\n"
        if name in held:
            yield _first(held[name]), _last(held[name]), text
        else:
            yield _last(old), _last(old), "\n" + text


def _edited(lines: list[str], edits: list[tuple[int, int, str]]):
    out: list[str] = []
    mine: set[int] = set()
    at = 0
    for first, last, text in sorted(edits, key=lambda edit: edit[0]):
        out += lines[at:first]
        new = text.splitlines(True)
        mine |= set(range(len(out) + 1, len(out) + len(new) + 1))
        out += new
        at = last
    return "".join([*out, *lines[at:]]), frozenset(mine)


# -- reading classes out of a port


def selection(port: str, expected: str) -> str:
    """The classes of the port, or the members of them, that `expected` names."""
    classes = {c.name: c for c in ast.parse(port).body if isinstance(c, ast.ClassDef)}
    shown = []
    for wanted in ast.parse(expected).body:
        assert isinstance(wanted, ast.ClassDef), "only classes can be expected"
        cls = classes.get(wanted.name)
        assert cls is not None, f"the port has no class {wanted.name}"
        if wanted.bases:
            shown.append(_text(port, cls))
            continue
        members = {member_name(m): m for m in cls.body}
        parts = [f"class {cls.name}:"]
        for member in wanted.body:
            name = member_name(member)
            assert name in members, f"the port has no {cls.name}.{name}"
            parts.append(textwrap.indent(_text(port, members[name]), "    ") + "\n")
        shown.append("\n".join(parts).rstrip("\n"))
    return "\n\n\n".join(shown) + "\n"


def member_name(node: ast.stmt) -> str | None:
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return node.target.id
    return getattr(node, "name", None)


def _first(node: ast.stmt) -> int:
    decorators = getattr(node, "decorator_list", [])
    return min([node.lineno, *(d.lineno for d in decorators)]) - 1


def _last(node: ast.stmt) -> int:
    assert node.end_lineno is not None
    return node.end_lineno


def _text(source: str, node: ast.stmt) -> str:
    lines = source.splitlines(True)[_first(node) : _last(node)]
    return textwrap.dedent("".join(lines)).rstrip("\n")
