"""Documentation must not drift: pages on extending run, the reference is complete, tests that are named exist."""

import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from tests.processes_of_tests import run_script

ROOT = Path(__file__).parents[1]
GENERATED = ("examples.md", "reference/api.md", "reference/cli.md", "reference/recipe.md")  # by tools/reference.py
PAGES = sorted((ROOT / "docs" / "extending").glob("*.md"))
RUN_ELSEWHERE = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests" / "extending").glob("test_*.py"))
"""Those tests import the code of a page by ``page("name")``."""


def blocks(page: Path) -> str:
    """Returns the Python blocks of a page, in their order, as one script."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if blocks(page) and f'page("{page.stem}")' not in RUN_ELSEWHERE],
    ids=lambda page: page.stem,
)
def test_the_example_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text(blocks(page), encoding="utf-8")
    status, _, errors = run_script(tmp_path / "example.py", folder=tmp_path)
    assert status == 0, errors


def test_every_key_of_a_recipe_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process in which no test has registered anything."""
    monkeypatch.syspath_prepend(ROOT / "tools")
    import reference

    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        assert process.submit(reference.undescribed).result() == []


def test_tests_that_the_reliability_page_names_exist() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w/]+\.py)::(\w+)`", page))
    missing = [
        f"{file}::{test}"
        for file, test in sorted(named)
        if not (ROOT / "tests" / file).is_file()
        or f"def {test}(" not in (ROOT / "tests" / file).read_text(encoding="utf-8")
    ]
    assert named
    assert missing == []


def test_links_between_pages_lead_somewhere() -> None:
    generated = {ROOT / "docs" / name for name in GENERATED}
    broken = []
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")):
        if page in generated:
            continue
        for link, section in re.findall(r"\]\(([^)#\s]*)(?:#([\w-]+))?\)", _without_code(page)):
            target = (page.parent / link).resolve() if link else page
            if "://" in link or target in generated:
                continue
            if not target.exists() or (section and section not in _sections(target)):
                broken.append(f"{page.relative_to(ROOT)}: {link}#{section}")
    assert broken == []


def _without_code(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def _sections(page: Path) -> set[str]:
    """Returns the anchors of a page's headings, as MkDocs and GitHub make them."""
    titles = re.findall(r"^#+ (.+)$", _without_code(page), flags=re.MULTILINE)
    words = (re.sub(r"[^\w\s-]", "", title).strip().lower() for title in titles)
    return {re.sub(r"[-\s]+", "-", title) for title in words}
