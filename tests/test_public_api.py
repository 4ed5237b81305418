"""What ``import medarts`` gives, and what it costs."""

import ast
import json
import re
import subprocess
import sys
import time
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import medarts


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("name", sorted(medarts.__all__))
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(medarts, name)
    assert name in dir(medarts)
    assert name == "__version__" or value.__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'serach'"):
        _ = medarts.serach


def test_no_submodule_hides_a_verb() -> None:
    code = (
        "import pkgutil, medarts; print(*{m.name for m in pkgutil.iter_modules(medarts.__path__)} & {*medarts.__all__})"
    )
    assert python(code).split() == []


def test_every_package_that_is_imported_is_declared() -> None:
    """Else it is there only as long as another package brings it."""
    root = Path(__file__).parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    declared = {re.sub(r"[-_.]+", "-", re.split(r"[\[<>=]", line)[0]).lower() for line in lines}
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in (root / "src").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    packages = {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) - {"medarts", "_typeshed"}
    assert len(packages) > 20
    brought = packages_distributions()
    found = {re.sub(r"[-_.]+", "-", name).lower() for package in packages for name in brought[package]}
    assert found <= declared


def test_import_is_quick_and_light() -> None:
    code = "import sys, json, medarts; print(json.dumps(sorted(sys.modules)))"
    loaded = set(json.loads(python(code)))
    assert not loaded & {"torch", "numpy", "pandas", "scipy", "monai", "matplotlib", "pydantic", "rich", "tyro"}


def test_help_is_quick() -> None:
    """Orientation: 0.5 s on an idle machine; here relative to the start of Python itself, as machines differ."""
    loaded = python("import sys, medarts.cli; print(*sys.modules)").split()
    assert not set(loaded) & {"torch", "pandas", "scipy", "monai", "matplotlib", "kornia", "lightning_fabric"}
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "medarts.cli", "--help"], check=True, capture_output=True)
    assert time.perf_counter() - began < 15


def test_flags_of_all_commands(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from medarts import cli
    from medarts.system import console

    monkeypatch.setattr(sys, "argv", ["medarts", "--version"])
    cli.main()
    assert capsys.readouterr().out == f"medarts {medarts.__version__}\n"
    monkeypatch.setattr(console.console, "quiet", False)
    for flag, traceback in (("--verbose", True), ("-q", False)):
        monkeypatch.setattr(sys, "argv", ["medarts", "cost", "nothing", flag])
        with pytest.raises(SystemExit):
            cli.main()
        errors = capsys.readouterr().err
        assert ("Traceback" in errors) is traceback
        assert errors.splitlines()[-1].startswith("medarts: There is no network 'nothing'")
    assert console.console.quiet
    console.inform("left out")
    console.warn("kept")
    assert capsys.readouterr().err == "warning: kept\n"
