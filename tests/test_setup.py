"""The repository itself: packages, requirements, layers, and what must never be committed."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ["config", "datasets", "models", "solvers", "engine", "serving"]


def requirements(name: str) -> set[str]:
    """Return a requirement file's packages; `-r` is followed, options and comments are not packages."""
    packages = set()
    for line in (ROOT / name).read_text().splitlines():
        if line.startswith("-r "):
            packages |= requirements(line[3:].strip())
        elif line and not line.startswith(("#", "-")):
            packages.add(line)
    return packages


def tracked_files() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_every_folder_is_a_package_except_tools():
    # Without __init__.py a `datasets` that is installed elsewhere would win over ours.
    for package in PACKAGES:
        assert (ROOT / package / "__init__.py").is_file(), package
    assert not (ROOT / "tools" / "__init__.py").exists()


def test_our_datasets_wins_over_an_installed_one(tmp_path):
    installed = tmp_path / "datasets"
    installed.mkdir()
    (installed / "__init__.py").write_text("raise ImportError('this is the installed one')")
    code = "import _init_paths, datasets; print(datasets.__file__)"
    printed = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "datasets",
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tools"), str(tmp_path)])},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert Path(printed.strip()) == ROOT / "datasets" / "__init__.py"


def test_the_two_builds_differ_in_paddle_alone():
    cpu, gpu = requirements("requirements.txt"), requirements("requirements-gpu.txt")
    assert cpu ^ gpu == {"paddlepaddle==3.3.1", "paddlepaddle-gpu==3.3.1"}


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("requirements*.txt")))
def test_requirements_are_pinned_exactly(name):
    for requirement in requirements(name):
        pin = re.sub(r'; (python_version (<|>=) "3\.\d+"|sys_platform != "win32")$', "", requirement)
        assert re.fullmatch(r"[A-Za-z0-9_-]+==[0-9][0-9a-z.]*", pin), requirement


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("requirements*.txt")))
@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
def test_each_python_gets_one_pin_of_a_package_and_paddlenlp_with_its_numpy(name, version):
    wanted = [Requirement(line) for line in requirements(name)]
    pins = [wish for wish in wanted if not wish.marker or wish.marker.evaluate({"python_version": version})]
    versions = {wish.name: str(wish.specifier) for wish in pins}
    assert len(versions) == len(pins) and versions.keys() | {"paddlenlp", "aistudio-sdk", "pyarrow"} >= {
        wish.name for wish in wanted
    }
    if "numpy" in versions and name != "requirements-serving.txt":  # which has no Paddle
        with_paddlenlp = version != "3.13"
        assert versions["numpy"].startswith("==1.26.") == with_paddlenlp
        assert ("paddlenlp" in versions) == with_paddlenlp


def test_layers_name_every_folder():
    text = (ROOT / "pyproject.toml").read_text()
    contract = re.search(r"^layers = \[(.*)\]$", text, re.MULTILINE).group(1)
    assert set(re.findall(r"\w+", contract)) == {*PACKAGES, "tools"}
    assert contract.index("engine") < contract.index("datasets | models | solvers") < contract.index("config")


def test_no_file_names_a_path_of_one_machine():
    absolute = re.compile(rb"(?<![\w./-])/(?:work|root|home/\w+|Users/\w+|tmp/\w+)/")
    offenders = []
    for path in tracked_files():
        content = path.read_bytes()
        if b"\0" not in content and path != Path(__file__) and absolute.search(content):
            offenders.append(str(path.relative_to(ROOT)))
    assert not offenders


def find_python(folder: Path, python: str = "") -> subprocess.CompletedProcess:
    """Run the search for a Python on a path that is `folder` alone."""
    if not (folder / "bash").exists():
        (folder / "bash").symlink_to(shutil.which("bash"))
    return subprocess.run(
        ["/usr/bin/env", "bash", ROOT / ".ci" / "find-python"],
        env={"PATH": str(folder), "PYTHON": python},
        capture_output=True,
        text=True,
    )


def add_failing_shim(folder: Path, name: str) -> Path:
    """Version managers put such shims on the path: they are found, and fail when they are run."""
    shim = folder / name
    shim.write_text("#!/bin/sh\necho 'version not installed' >&2\nexit 127\n")
    shim.chmod(0o755)
    return shim


def test_setup_passes_over_a_python_that_only_pretends(tmp_path):
    add_failing_shim(tmp_path, "python3.11")
    (tmp_path / "python3").symlink_to(sys.executable)
    assert find_python(tmp_path).stdout.strip() == str(tmp_path / "python3")


def test_setup_without_a_python_says_so_in_one_line(tmp_path):
    result = find_python(tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(r"error: expected Python 3\.10, .* found none; .*\n", result.stderr)


def test_setup_takes_the_named_python_or_none(tmp_path):
    (tmp_path / "python3").symlink_to(sys.executable)
    shim = add_failing_shim(tmp_path, "mine")
    result = find_python(tmp_path, python=str(shim))
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(rf"error: expected PYTHON to be .* got {shim}; .*\n", result.stderr)


def add_python(folder: Path, name: str, version: tuple[int, int], has_venv: bool = True) -> Path:
    """Put the Python that runs the tests into `folder`, under a version and a name that are not its own."""
    python = folder / name
    lie = f"import sys; sys.version_info = {(*version, 0, 'final', 0)!r}\n"
    if not has_venv:
        lie += "sys.modules['ensurepip'] = None\n"
    python.write_text(f"""#!/bin/sh
[ "$1" = -c ] || exit 1
exec {sys.executable} -c "{lie}$2"
""")
    python.chmod(0o755)
    return python


@pytest.mark.parametrize("version", [(3, 10), (3, 11), (3, 12), (3, 13)])
def test_setup_takes_each_python_that_was_tested(tmp_path, version):
    python = add_python(tmp_path, "python3", version)
    assert find_python(tmp_path).stdout.strip() == str(python)


def test_setup_passes_over_versions_that_were_not_tested(tmp_path):
    add_python(tmp_path, "python", (3, 9))
    add_python(tmp_path, "python3", (3, 14))
    assert find_python(tmp_path).stderr.startswith("error: expected Python 3.10")


def test_setup_takes_a_newer_python_only_where_it_is_alone(tmp_path):
    newest = add_python(tmp_path, "python3.13", (3, 13))
    assert find_python(tmp_path).stdout.strip() == str(newest)
    older = add_python(tmp_path, "python3.12", (3, 12))
    assert find_python(tmp_path).stdout.strip() == str(older)


def test_setup_names_the_package_that_a_python_lacks(tmp_path):
    python = add_python(tmp_path, "python3", (3, 13), has_venv=False)
    result = find_python(tmp_path)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert result.stderr.startswith(f"error: {python} cannot make virtual environments")
    assert "install python3.13-venv" in result.stderr


def make_environment(folder: Path, python: str = "") -> subprocess.CompletedProcess:
    """Run the Makefile's target of the environment in `folder`, on a path that is its folder `path` alone."""
    shutil.copytree(ROOT / ".ci", folder / ".ci")
    shutil.copy(ROOT / "Makefile", folder)
    for name in ("bash", "rm", "mkdir", "touch"):
        (folder / "path" / name).symlink_to(shutil.which(name))
    return subprocess.run(
        [shutil.which("make"), ".venv/made", f"PYTHON={python}"],
        cwd=folder,
        env={"PATH": str(folder / "path")},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def fake_uv(tmp_path) -> Path:
    """Return a `uv` on a path of its own that makes an empty folder of what it is asked for."""
    uv = tmp_path / "path" / "uv"
    uv.parent.mkdir()
    uv.write_text('#!/bin/sh\n[ "$1" = --version ] || { mkdir .venv; echo "$@" >.venv/asked; }\n')
    uv.chmod(0o755)
    return uv


def test_setup_lets_uv_bring_a_python_where_there_is_none(tmp_path, fake_uv):
    add_failing_shim(fake_uv.parent, "python3.11")
    add_python(fake_uv.parent, "python3.12", (3, 12), has_venv=False)
    (tmp_path / ".venv").mkdir()  # of an earlier call that was interrupted
    (tmp_path / ".venv" / "half").write_text("")
    result = make_environment(tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert (tmp_path / ".venv" / "asked").read_text() == "venv --python 3.11 --seed .venv\n"
    assert {path.name for path in (tmp_path / ".venv").iterdir()} == {"asked", "made"}


def test_setup_asks_uv_for_nothing_where_a_python_is_named_or_fits(tmp_path, fake_uv):
    python = add_python(fake_uv.parent, "python3", (3, 13))
    assert find_python(fake_uv.parent).stdout.strip() == str(python)
    shim = add_failing_shim(tmp_path, "mine")
    assert find_python(fake_uv.parent, python=str(shim)).returncode == 1


def test_setup_passes_over_a_uv_that_only_pretends(tmp_path, fake_uv):
    add_failing_shim(fake_uv.parent, "uv")
    result = make_environment(tmp_path)
    assert result.returncode != 0
    assert [line.split(":")[0] for line in result.stderr.splitlines()] == ["error", "make"]
    assert not (tmp_path / ".venv").exists()


def planned_recipes(folder: Path) -> str:
    """Return what `make test` would run in `folder`, without running it."""
    environment = {"PATH": os.environ["PATH"]}  # not the options of a make that runs these tests
    command = ["make", "--dry-run", "test"]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_a_second_call_installs_nothing(tmp_path):
    # A copy of the Makefile whose environment is complete has no recipe left to run but the tests.
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    (tmp_path / ".venv").mkdir()
    written_at = {
        "requirements.txt": 1,
        "requirements-common.txt": 1,
        "requirements-dev.txt": 1,
        "requirements-backbone.txt": 1,
        "requirements-onnx.txt": 1,
        "requirements-export.txt": 1,
        "requirements-index.txt": 1,
        "requirements-milvus.txt": 1,
        "requirements-service.txt": 1,
        ".venv/made": 2,
        ".venv/requirements.installed": 3,
        ".venv/requirements-dev.installed": 3,
    }
    for name, seconds in written_at.items():
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (seconds, seconds))
    recipes = planned_recipes(tmp_path)
    assert "pytest" in recipes
    assert "install" not in recipes

    os.utime(tmp_path / "requirements-common.txt", (4, 4))  # what has changed is installed, nothing else
    recipes = planned_recipes(tmp_path)
    assert "install --disable-pip-version-check -r requirements.txt" in recipes
    assert "-r requirements-dev.txt" not in recipes
