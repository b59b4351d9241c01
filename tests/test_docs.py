"""The pages of documentation name files, modules, options, keys and headings that exist."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from config.default import KEYS
from config.load import load_config
from config.names import VINVL_NAMES

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(ROOT.glob("docs/**/*.md")) + [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
LIBRARY = {"config", "datasets", "engine", "models", "serving", "solvers"}
FOLDERS = LIBRARY | {"benchmarks", "configs", "docs", "tests", "tools"}
NOT_OURS = {*VINVL_NAMES, "INPUT.IMG_FEATURE_TYPE"}  # keys of VinVL-Paddle that a table translates
KEY = re.compile(rf"\b({'|'.join(KEYS)})\.([A-Z][A-Z0-9_]*)(\*?)")


@pytest.fixture(params=PAGES, ids=lambda path: path.name)
def page(request) -> str:
    """Return a page with each command on one line, without error messages and the commands before them."""
    text = request.param.read_text(encoding="utf-8").replace("\\_", "_").replace("\\\n", " ")
    return re.sub(r"^(\$ .*\n)?error: .*$", "", text, flags=re.MULTILINE)


@cache
def names_of(module: str) -> frozenset[str]:
    """Return what can be imported from a module: its names and, of a package, its modules too."""
    path = ROOT / module.replace(".", "/")
    names = {entry.stem for entry in path.glob("*")}
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    assert source.is_file(), f"there is no module {module}"
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            names |= {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return frozenset(names)


def test_imports_of_the_snippets_resolve(page):
    for snippet in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        for node in ast.walk(ast.parse(snippet)):
            if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] in LIBRARY:
                missing = {alias.name for alias in node.names} - names_of(node.module)
                assert not missing, f"{node.module} has no {missing}"


def test_modules_and_functions_in_the_text_resolve(page):
    for dotted in re.findall(r"`(\w+(?:\.\w+)+)[`(]", page):
        parts = dotted.split(".")
        if parts[0] in LIBRARY and parts[-1] not in ("py", "yaml", "json"):
            assert parts[-1] in names_of(".".join(parts[:-1])), dotted


def test_files_in_the_text_exist(page):
    for name in re.findall(r"(?<![\w./-])[\w.]+/[\w./{},*-]*\w", page):
        if name.partition("/")[0] in FOLDERS and not re.search(r"[{}*]|configs/mine/", name):
            assert (ROOT / name).exists(), name


def test_links_lead_to_pages_and_headings(request, page):
    here = request.node.callspec.params["page"]
    for name, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", page):
        target = here.parent / name if name else here
        assert target.is_file(), name
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{name}#{anchor}"


def test_keys_exist(page):
    for section, name, star in KEY.findall(page):
        if f"{section}.{name}" not in NOT_OURS:
            known = any(key.startswith(name) for key in KEYS[section]) if star else name in KEYS[section]
            assert known, f"{section}.{name}"


@cache
def options_of(tool: str) -> frozenset[str] | None:
    """Return the options of a tool; None where it makes them from other names."""
    sources = [ROOT / "tools" / tool, ROOT / "config" / "load.py"]
    for source in sources:  # and the modules beside it that it imports
        names = re.findall(r"^ *(?:from|import) (_\w+)", source.read_text(encoding="utf-8"), re.MULTILINE)
        helpers = [ROOT / "tools" / f"{name}.py" for name in names]
        sources += [helper for helper in helpers if helper.is_file() and helper not in sources]
    nodes = [node for source in sources for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))]
    if any(
        isinstance(node, ast.JoinedStr) and getattr(node.values[0], "value", "") == "--" for node in nodes
    ):
        return None
    strings = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return frozenset(each for each in strings if re.fullmatch(r"--\w+", each))


def test_command_lines_use_options_that_exist(page):
    for tool, words in re.findall(r"\btools/(\w+\.py)([^\n`#|]*)", page):
        options = options_of(tool)
        if options is not None:
            assert set(re.findall(r"(?<=\s)--\w+", words)) <= options, f"{tool}{words}"


def test_settings_of_the_command_lines_are_valid(page):
    for words in re.findall(r"\btools/\w+\.py([^\n`#|]*)", page):
        task = re.search(r"--cfg_file (configs/\S+\.yaml)", words)
        settings = [word for word in re.findall(r"[^\s\"]+", words) if KEY.match(word)]
        if task and "$" not in words:
            load_config(ROOT / task[1], settings)
