"""Hook of mkdocs for generated pages, linked files of the repository, and checks of the site.

The page on the command line is generated from typer, that on recipe keys from the recipe's models, and others from
notebooks. Pages may link to any file of the repository, which is then copied into the site. The build fails if a page
would load anything from elsewhere. `make docs` runs the hook.
"""

from __future__ import annotations

import inspect
import json
import posixpath
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from irepdeploy.cli.application import application
from irepdeploy.cli.group import EXAMPLES
from irepdeploy.recipe import Recipe

ROOT = Path(__file__).parents[2]
_COPIED = "files/"
_FENCE = re.compile(r"^(```.*?^```)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?![a-z]+:|#|/)([^)\s#]+)")
_LINK_TO_FOLDER = re.compile(r"(?<!!)\[([^\]]+)\]\((?![a-z]+:|#|/)([^)\s#]+)\)")
# Larger limits are of no practical use and not shown.
_ABSURD = 100_000
# Attributes from which a browser loads something by itself, unlike links.
_LOADED = re.compile(
    r"<(?:script|img|iframe|source|video|audio|embed|object)\b[^>]*\b(?:src|data)=\"?(?:https?:)?//"
    r"|<link\b[^>]*\brel=\"?(?:stylesheet|preload|prefetch|preconnect|icon|manifest|modulepreload)\"?[^>]*"
    r"\bhref=\"?(?:https?:)?//"
    r"|<link\b[^>]*\bhref=\"?(?:https?:)?//[^>]*\brel=\"?(?:stylesheet|preload|prefetch|preconnect|icon)"
)
_LOADED_BY_STYLE = re.compile(r"url\(\s*[\"']?(?:https?:)?//|@import\s+[\"'](?:https?:)?//")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, the pages of notebooks, and the files outside of docs/ that pages link to."""
    for name, text in {"commands.md": commands_page(), "recipe-keys.md": recipe_page()}.items():
        files.append(File.generated(config, name, content=text))
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        page = f"{file.src_uri.removesuffix('.ipynb')}.md"
        files.append(File.generated(config, page, content=notebook_page(Path(file.abs_src_path or ""))))
    waiting = [file for file in files.documentation_pages() if file.abs_src_path]
    while waiting:
        file = waiting.pop()
        for target in _LINK.findall(_FENCE.sub("", file.content_string)):
            place = _placed(file.src_uri, target)
            path = ROOT / place.removeprefix(_COPIED)
            if place.startswith(_COPIED) and path.is_file() and files.get_file_from_path(place) is None:
                new = File.generated(config, place, abs_src_path=str(path))
                files.append(new)
                waiting += [new] if path.suffix == ".md" else []
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Redirect links to files of the repository to their copies, and enable Markdown in folded parts."""
    parts = _FENCE.split(markdown)
    for index in range(0, len(parts), 2):
        parts[index] = _LINK_TO_FOLDER.sub(lambda found: _followed(page.file.src_uri, found), parts[index])
        parts[index] = _LINK.sub(lambda found: f"]({_moved(page.file.src_uri, found[1])}", parts[index])
        parts[index] = parts[index].replace("<details>", '<details markdown="1">')
    return "".join(parts)


def on_post_build(config: MkDocsConfig) -> None:
    """Fail if a page loads something from elsewhere, or shows Markdown that was not rendered."""
    faults = []
    for path in sorted(Path(config.site_dir).rglob("*")):
        if path.suffix not in (".html", ".css"):
            continue
        text = path.read_text(encoding="utf-8")
        pattern = _LOADED_BY_STYLE if path.suffix == ".css" else _LOADED
        faults += [f"{path.name} loads {found[0][:120]}" for found in pattern.finditer(text)]
        if path.suffix == ".html":
            faults += [f"{path.name}: a list without an empty line before it" for _ in re.findall(r"\n- .*</p>", text)]
    if faults:
        raise PluginError("; ".join(faults[:10]))


def commands_page() -> str:
    """Return the reference of the command line: every command, its help, arguments and options."""
    from typer import Context
    from typer.main import get_command

    def described(command: Any, path: str) -> Iterator[str]:
        default = getattr(command, "commands", {}).get("(default)", command)
        context = Context(default, info_name=path)
        if default is not command or not hasattr(command, "commands"):
            yield f"## {path}\n"
            yield f"```text\n{' '.join([path, *default.collect_usage_pieces(context)])}\n```\n"
            text, examples, lines = (default.help or "").partition(EXAMPLES)
            yield f"{_prose(text)}\n"
            if examples:
                yield f"```sh\n{textwrap.dedent(lines)}\n```\n"
            rows = [record for each in default.params if (record := each.get_help_record(context))]
            rows = [row for row in rows if not row[0].startswith("--help")]
            yield from ["| argument or option | what it does |", "| :--- | :--- |"] if rows else []
            yield from (f"| `{_cell(name)}` | {_cell(_prose(text)).replace('[', '&#91;')} |" for name, text in rows)
            yield ""
        for name, other in getattr(command, "commands", {}).items():
            if name != "(default)":
                yield from described(other, f"{path} {name}")

    root: Any = get_command(application())
    names = root.list_commands(Context(root))
    lines = [
        "# Command line",
        "",
        "This is the output of `--help` for each command. `--debug`, anywhere on the line, shows the",
    ]
    lines += ["traceback of an error; [exit codes](exit-codes.md) are the same for all commands.", ""]
    for name in names:
        lines += described(root.commands[name], f"irepdeploy {name}")
    return "\n".join(lines)


def recipe_page() -> str:
    """Return the reference of the recipe: every section, its keys, their types and defaults."""
    lines = ["# Recipe keys", "", "A recipe is one YAML file. Every key can be given on the command line as"]
    lines += ["`KEY=VALUE`, with its dotted name. The full recipe of a run is in its folder, as full-recipe.yaml."]
    lines += ["[Train](training.md) explains the [data sets](training.md#data-sets) and the"]
    lines += ["[augmentation](training.md#augmentation), and [The search](search.md) what a search can be told.", ""]
    waiting: list[tuple[str, type[BaseModel]]] = [("", Recipe)]
    while waiting:
        prefix, section = waiting.pop(0)
        text, described = _documented(section)
        lines += [f"## {prefix.rstrip('.') or 'Top level'}", "", _prose(text), ""]
        lines += ["| key | type | default | what it does |", "| :--- | :--- | :--- | :--- |"] if described else []
        lines += [] if described else ["| key | type | default |", "| :--- | :--- | :--- |"]
        inner = []
        for name, field in section.model_fields.items():
            kind = field.annotation
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                inner.append((f"{prefix}{name}.", kind))
                row = [
                    f"[`{prefix}{name}`](#{f'{prefix}{name}'.replace('.', '')})",
                    "section",
                    "",
                    _prose(described.get(name, "")),
                ]
            else:
                row = [f"`{prefix}{name}`", _kind(field), _default(field), _prose(described.get(name, ""))]
            lines.append(f"| {' | '.join(map(_cell, row if described else row[:3]))} |")
        lines.append("")
        waiting = inner + waiting
    return "\n".join(lines)


def notebook_page(path: Path) -> str:
    """Return the cells of a notebook as Markdown, without outputs."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    return "\n\n".join(parts) + f"\n\nThis page is the notebook [{path.name}]({path.name}).\n"


def _placed(page: str, target: str) -> str:
    """Return the location in the site of a file that a page links to."""
    source = page.removeprefix(_COPIED) if page.startswith(_COPIED) else f"docs/{page}"
    place = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    return place.removeprefix("docs/") if place.startswith("docs/") else f"{_COPIED}{place}"


def _moved(page: str, target: str) -> str:
    return posixpath.relpath(_placed(page, target), posixpath.dirname(page) or ".")


def _followed(page: str, link: re.Match[str]) -> str:
    """Return a link, or only its text if it leads to a folder, since the site has no folders."""
    path = ROOT / _placed(page, link[2]).removeprefix(_COPIED)
    return link[1] if path.is_dir() else link[0]


def _prose(text: str) -> str:
    """Return a docstring as Markdown, with double backquotes turned into single ones."""
    return inspect.cleandoc(text).replace("``", "`")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _documented(section: type[BaseModel]) -> tuple[str, dict[str, str]]:
    """Return the docstring of a section without its arguments, and the text of each argument."""
    text, _, arguments = (inspect.getdoc(section) or "").partition("\nArgs:\n")
    parts = re.split(r"^    (\w+): ", arguments, flags=re.MULTILINE)
    return text, dict(zip(parts[1::2], parts[2::2], strict=True))


def _kind(field: FieldInfo) -> str:
    """Return a description of the type of a key with its limits, except those that only guard against absurd files."""
    words = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
    found = [(word, getattr(each, name, None)) for each in field.metadata for name, word in words.items()]
    shown = [f"{word} {value:g}" for word, value in found if value is not None and value < _ABSURD]
    return ", ".join([_type(field.annotation), *shown])


def _type(kind: Any) -> str:
    if get_origin(kind) is not None and str(get_origin(kind)).endswith("Literal"):
        return " or ".join(f"`{value}`" for value in get_args(kind))
    inner = [each for each in get_args(kind) if each is not Ellipsis]
    if kind is not None and get_origin(kind) is tuple:
        return f"list of {_type(inner[0])}s"
    if type(None) in inner:
        return " or ".join([*(_type(each) for each in inner if each is not type(None)), "null"])
    if get_origin(kind) is dict:
        return "mapping"
    if hasattr(kind, "__metadata__"):
        return _type(inner[0])
    return {bool: "boolean", int: "integer", float: "number", str: "text"}.get(kind, str(kind))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = list(field.default) if isinstance(field.default, tuple) else field.default
    return f"`{json.dumps(value)}`" if not isinstance(value, str) else f"`{value}`"
