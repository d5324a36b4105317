"""The reference pages: every public name, its signature and its docstring.

Read as text, so building the book imports neither JAX nor minivim. Public is what
`__all__` names. Without one it is what a package imports from its own modules, and what
a module defines with a docstring and without a leading underscore.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Modules in the order of the chapters, with the chapters about them.
MODULES: dict[str, tuple[str, ...]] = {
    "minivim": ("01_two_stages",),
    "minivim.tokenizer": (
        "02_quantizer",
        "03_vit_tokenizer",
        "04_losses",
        "05_codebook_usage",
    ),
    "minivim.metrics": ("05_codebook_usage", "07_sampling"),
    "minivim.prior": ("06_prior", "07_sampling"),
    "minivim.probe": ("08_probe",),
    "minivim.classifier": ("07_sampling",),
    "minivim.checks": (
        "02_quantizer",
        "04_losses",
        "06_prior",
        "07_sampling",
        "08_probe",
        "10_claims",
    ),
    "minivim.training": ("09_scale",),
    "minivim.sharding": ("09_scale",),
    "minivim_lab.plan": ("09_scale",),
    "minivim.data": ("01_two_stages",),
    "minivim.config": ("01_two_stages",),
    "minivim.recipes": ("01_two_stages", "03_vit_tokenizer"),
    "minivim.weights": ("01_two_stages",),
    "minivim.evaluate": ("10_claims",),
    "minivim.trainer": ("10_claims",),
    "minivim.encode": ("01_two_stages",),
    "minivim.portable": (),
    "minivim.weights.hub": (),
    "minivim_lab.reproduce": ("10_claims",),
    "minivim.show": (),
    "minivim_lab.widgets": (),
}
SECTION = re.compile(r"(Args|Returns|Raises|Yields):")
ITEM = re.compile(r"(\*{0,2}[\w.]+): (.*)")
WIDTH = 80


class MissingName(Exception):
    """A public name without a definition or a docstring."""


@dataclass(frozen=True)
class Name:
    """A public name, the file that defines it, and its definition there."""

    name: str
    path: Path
    node: ast.stmt | None
    source: str

    @property
    def documentation(self) -> str:
        """The docstring; of a constant the string below it."""
        if isinstance(self.node, ast.ClassDef | ast.FunctionDef):
            return ast.get_docstring(self.node) or ""
        if self.node is None:
            return ast.get_docstring(ast.parse(self.source)) or ""
        body = ast.parse(self.source).body
        places = [n.lineno for n in body]
        following = body[places.index(self.node.lineno) + 1 :][:1]
        below = _string(following[0]) if following else ""
        return below or self._comment()

    def _comment(self) -> str:
        """The comment directly above the definition."""
        lines = self.source.splitlines()[: self.node.lineno - 1]  # type: ignore[union-attr]
        above = []
        while lines and lines[-1].startswith("# "):
            above.append(lines.pop()[2:])
        return "\n".join(x for x in reversed(above) if not x.startswith("Paper"))


def public(root: Path, module: str) -> list[Name]:
    """The public names of a module in the order of `__all__`, else of the source.

    A package without `__all__` offers what it imports from its own modules, and with a
    star their constants too.
    """
    path = _file(root, module)
    tree = ast.parse(path.read_text("utf-8"))
    listed = [n for n in tree.body if _target(n) == "__all__"]
    if listed:
        names = ast.literal_eval(listed[0].value)  # type: ignore[attr-defined]
        return [_find(root, module, name) for name in names]
    imported = [
        name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").startswith(f"{module}.")
        for alias in node.names
        for name in (
            _starred(root, node.module)  # type: ignore[arg-type]
            if alias.name == "*"
            else [_find(root, module, alias.asname or alias.name)]
        )
    ]
    return imported + [
        _find(root, module, node.name)
        for node in tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
        if not node.name.startswith("_") and ast.get_docstring(node)
    ]


def _starred(root: Path, module: str) -> list[Name]:
    """Public names of a module and its constants, which capitals tell."""
    tree = ast.parse(_file(root, module).read_text("utf-8"))
    names = [name for node in tree.body if (name := _target(node))[:1].isupper()]
    return [*(_find(root, module, name) for name in names), *public(root, module)]


def places(root: Path, chapter: str) -> dict[str, str]:
    """Modules, and public names, if possible in modules of the chapter, to pages."""
    modules = sorted(MODULES, key=lambda module: chapter in MODULES[module])
    names = [(name.name, module) for module in modules for name in public(root, module)]
    found = {name: f"{module}.md#{name.lower()}" for name, module in names}
    return found | {module: f"{module}.md" for module in modules if "." in module}


def page(root: Path, module: str) -> str:
    """One module as Markdown."""
    text = _file(root, module).read_text("utf-8")
    chapters = ", ".join(
        f"[{int(c.split('_')[0])}](../notebooks/{c}.ipynb)" for c in MODULES[module]
    )
    parts = [f"# {module}", prose(ast.get_docstring(ast.parse(text)) or "")]
    if chapters:
        parts.append(f"Chapters: {chapters}.")
    parts += [entry(root, name) for name in public(root, module)]
    return "\n\n".join(parts) + "\n"


def entry(root: Path, name: Name) -> str:
    """A name: signature, docstring, fields and methods."""
    where = f"<small>{name.path.relative_to(root)}</small>"
    parts = [f"## {name.name}", where]
    node = name.node
    if isinstance(node, ast.FunctionDef):
        parts.append(_code(signature(node)))
    elif isinstance(node, ast.ClassDef):
        parts.append(_code(_class(node, name.source)))
    elif node is not None:
        value = ast.unparse(node)
        parts.append(_code(value if len(value) <= WIDTH else value.split(" = ")[0]))
    if not isinstance(node, ast.Assign | ast.AnnAssign) and not name.documentation:
        raise MissingName(f"{where} defines {name.name} without a docstring")
    parts.append(prose(name.documentation))
    if isinstance(node, ast.ClassDef):
        parts += [f"**`{m.name}`**\n\n{text}" for m, text in _methods(node)]
    return "\n\n".join(part for part in parts if part)


def signature(node: ast.FunctionDef, *, drop: str = "", name: str = "") -> str:
    """`def name(...) -> ...`, an argument a line where it would be too wide."""
    arguments = node.args
    given = ast.arguments(
        posonlyargs=arguments.posonlyargs,
        args=[a for a in arguments.args if a.arg != drop],
        vararg=arguments.vararg,
        kwonlyargs=arguments.kwonlyargs,
        kw_defaults=arguments.kw_defaults,
        kwarg=arguments.kwarg,
        defaults=arguments.defaults,
    )
    back = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    start = name or f"def {node.name}"
    flat = f"{start}({ast.unparse(given)}){back}"
    if len(flat) <= WIDTH:
        return flat
    lines = "".join(f"    {line},\n" for line in _arguments(given))
    return f"{start}(\n{lines}){back}"


def prose(docstring: str) -> str:
    """A docstring as Markdown: lists of arguments, doctests as code."""
    blocks = re.split(r"\n\s*\n", inspect.cleandoc(docstring))
    return "\n\n".join(_block(block) for block in blocks if block.strip())


def write(root: Path, folder: Path) -> None:
    """All pages and their index; a file is touched only when it changes."""
    folder.mkdir(exist_ok=True)
    lines = []
    for module in MODULES:
        doc = ast.get_docstring(ast.parse(_file(root, module).read_text("utf-8")))
        first = " ".join((doc or "").split("\n\n")[0].split())
        lines.append(f"| [`{module}`]({module}.md) | {first} |")
    head = "# Reference\n\nPublic names, read from the source as the book is built.\n"
    table = "\n".join(["| module | what is in it |", "|---|---|", *lines])
    names = "\n".join(MODULES)
    tree = f"```{{toctree}}\n:hidden:\n\n{names}\n```"
    pages = {"index": f"{head}\n{table}\n\n{tree}\n"}
    pages |= {module: page(root, module) for module in MODULES}
    for old in folder.glob("*.md"):
        if old.stem not in pages:  # of a module that was public once
            old.unlink()
    for name, text in pages.items():
        target = folder / f"{name}.md"
        if not target.exists() or target.read_text("utf-8") != text:
            target.write_text(text, "utf-8")


def _file(root: Path, module: str) -> Path:
    base = root.joinpath(*module.split("."))
    package = base / "__init__.py"
    return package if package.exists() else base.with_suffix(".py")


def _target(node: ast.stmt) -> str:
    if isinstance(node, ast.Assign):
        node_target = node.targets[0]
    elif isinstance(node, ast.AnnAssign):
        node_target = node.target
    else:
        return ""
    return node_target.id if isinstance(node_target, ast.Name) else ""


def _string(node: ast.stmt) -> str:
    value = node.value if isinstance(node, ast.Expr) else None
    text = value.value if isinstance(value, ast.Constant) else ""
    return text if isinstance(text, str) else ""


def _find(root: Path, module: str, name: str) -> Name:
    """The definition of a name, through the imports that lead to it."""
    path = _file(root, module)
    source = path.read_text("utf-8")
    body = ast.parse(source).body
    # Names that are imported when they are asked for stand below TYPE_CHECKING.
    for node in [
        *body,
        *(n for top in body if isinstance(top, ast.If) for n in top.body),
    ]:
        defined = isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name
        if defined or _target(node) == name:
            return Name(name, path, node, source)
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    inner = f"{node.module}.{alias.name}"
                    if _file(root, inner).exists():
                        return Name(
                            name,
                            _file(root, inner),
                            None,
                            _file(root, inner).read_text("utf-8"),
                        )
                    return _find(root, node.module, alias.name)
    raise MissingName(f"{module} has no {name}")


def _arguments(given: ast.arguments) -> Iterator[str]:
    """The arguments one by one, as they were written."""
    plain = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(plain) - len(given.defaults)) + list(given.defaults)
    for argument, default in zip(plain, defaults, strict=True):
        yield _argument(argument, default)
    if given.vararg:
        yield f"*{ast.unparse(given.vararg)}"
    elif given.kwonlyargs:
        yield "*"
    for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        yield _argument(argument, default)
    if given.kwarg:
        yield f"**{ast.unparse(given.kwarg)}"


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    text = ast.unparse(argument)
    if default is None:
        return text
    equals = " = " if argument.annotation else "="
    return f"{text}{equals}{ast.unparse(default)}"


def _class(node: ast.ClassDef, source: str) -> str:
    """A class: its fields with their comments, or the arguments of its start."""
    fields = [n for n in node.body if isinstance(n, ast.AnnAssign)]
    head = f"class {node.name}"
    if any("dataclass" in ast.unparse(d) for d in node.decorator_list) and fields:
        lines = source.splitlines()
        start = fields[0].lineno - 1
        while lines[start - 1].lstrip().startswith("#"):
            start -= 1
        body = "\n".join(lines[start : fields[-1].end_lineno])
        kept = [x for x in body.splitlines() if not x.lstrip().startswith("# Paper")]
        return f"{head}:\n" + "\n".join(kept)
    starts = [n for n in node.body if isinstance(n, ast.FunctionDef)]
    begin = next((n for n in starts if n.name == "__init__"), None)
    return signature(begin, drop="self", name=head) if begin else head


def _methods(node: ast.ClassDef) -> Iterator[tuple[ast.FunctionDef, str]]:
    for method in node.body:
        if not isinstance(method, ast.FunctionDef):
            continue
        shown = not method.name.startswith("_") or method.name == "__call__"
        if shown and (doc := ast.get_docstring(method)):
            text = signature(method, drop="self")
            if any("property" in ast.unparse(d) for d in method.decorator_list):
                text = f"@property\n{text}"
            yield method, f"{_code(text)}\n\n{prose(doc)}"


def _code(text: str) -> str:
    return f"```python\n{text}\n```"


def _block(block: str) -> str:
    """One paragraph of a docstring."""
    lines = block.splitlines()
    if all(line.startswith("    ") for line in lines):
        return "```text\n" + inspect.cleandoc("\n" + block) + "\n```"
    match = SECTION.fullmatch(lines[0].strip())
    if match:
        return f"{match[1]}:\n\n{_items(lines[1:])}"
    doctest = next((i for i, x in enumerate(lines) if x.startswith(">>>")), None)
    if doctest is not None:
        above = "\n".join(lines[:doctest])
        return f"{above}\n\n```pycon\n" + "\n".join(lines[doctest:]) + "\n```"
    return block


def _items(lines: list[str]) -> str:
    text = inspect.cleandoc("\n".join(["", *lines]))
    items: list[str] = []
    for line in text.splitlines():
        match = ITEM.fullmatch(line)
        if match:
            items.append(f"- `{match[1]}`: {match[2]}")
        elif items:
            items.append(f"  {line.strip()}")
        else:
            items.append(line)
    return "\n".join(items)
