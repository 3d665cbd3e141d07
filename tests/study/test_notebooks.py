"""The notebooks run from their first cell to their last, and are committed as a reader should find them."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
READ = ("docs", "tests")
"""Folders of the repository that notebooks read from; they write to `../runs` alone."""


@pytest.fixture(params=NOTEBOOKS, ids=lambda file: file.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def _code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _outputs(notebook):
    return [out for cell in _code(notebook) for out in cell.outputs]


def _texts(out):
    """All text of an output."""
    data = out.get("data", {})
    return [out.get("text", ""), *(value for kind, value in data.items() if not kind.startswith("image"))]


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_every_cell_runs_and_shows_what_it_is_committed_with(notebook, tmp_path):
    (tmp_path / "notebooks").mkdir()
    for name in READ:
        (tmp_path / name).symlink_to(ROOT / name)
    shown = [[out.output_type for out in cell.outputs] for cell in _code(notebook)]
    NotebookClient(notebook, timeout=3000, resources={"metadata": {"path": str(tmp_path / "notebooks")}}).execute()
    again = [
        [out.output_type for out in cell.outputs if out.get("name") != "stderr"] for cell in _code(notebook)
    ]  # stderr: the progress of what was trained, which a second run does not have
    assert again == shown
    assert {path.name for path in tmp_path.iterdir()} <= {"notebooks", "runs", *READ}
    assert not list((tmp_path / "notebooks").iterdir())


def test_committed_with_its_outputs_and_without_an_error(notebook):
    cells = _code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert cells[-1].outputs, "it was not executed to its end"
    assert not [out for out in _outputs(notebook) if out.output_type == "error" or out.get("name") == "stderr"]


def test_committed_without_traces_of_the_machine(notebook):
    texts = [text for out in _outputs(notebook) for text in _texts(out)]
    found = [re.findall(r"/(?:home|root|tmp|work|usr|opt|Users)/\S+", text) for text in texts]
    assert not [each for each in found if each]
    assert not [cell for cell in notebook.cells if "execution" in cell.metadata]


def test_text_stands_before_code(notebook):
    """The first cell says what the page is, and most cells are read with a text of their own."""
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds[0] == "markdown" and notebook.cells[0].source.startswith("# ")
    runs = re.findall("c+", "".join(kind[0] for kind in kinds))
    assert max(map(len, runs)) <= 2


@pytest.mark.parametrize("name", [file.name for file in NOTEBOOKS])
def test_the_readme_names_it(name):
    assert f"](notebooks/{name})" in (ROOT / "README.md").read_text(encoding="utf-8")
