"""Figures: what is drawn is what the result says, and blank is blank."""

import subprocess
import sys

import numpy as np
import oracles
import pytest
from matplotlib.figure import Figure

from analysis import anova, cell_means, figures


@pytest.fixture
def means():
    return cell_means(oracles.published(), "score", ["input", "output"])


def _pixels(figure: Figure) -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())  # type: ignore[attr-defined]


def test_the_heat_map_writes_valid_cells_only_in_the_order_asked(means):
    order = list(reversed(oracles.PUBLISHED))
    figure = figures.heat_map(means, "input", "output", order=[*order, *oracles.PUBLISHED])  # a name may come twice
    ax = figure.axes[0]
    written = [t.get_text() for t in ax.texts]
    assert sorted(written) == sorted(f"{v:.3f}" for cells in oracles.PUBLISHED.values() for v in cells.values())
    assert [t.get_text() for t in ax.get_yticklabels()] == order
    mesh = np.ma.asarray(ax.collections[0].get_array())
    assert int(mesh.mask.sum()) == 70 - 20


def test_blank_cells_have_the_colour_of_the_background(means):
    figure = figures.heat_map(means, "input", "output", order=list(oracles.PUBLISHED))
    picture = _pixels(figure)
    ax = figure.axes[0]
    columns = [t.get_text() for t in ax.get_xticklabels()]
    seen = {}
    for row, col in ((0, columns.index("Res_out")), (0, columns.index("SA_in"))):
        x, y = ax.transData.transform((col + 0.5, row + 0.15))
        seen[col] = tuple(int(v) for v in picture[picture.shape[0] - int(y), int(x), :3])
    blank, filled = seen.values()
    assert blank == (0xF3, 0xF4, 0xF6) and filled != blank


def test_effects_draw_every_tested_term_but_blocks():
    table = anova(oracles.data("adapter_failed"), "score", ["in_pos", "out_pos", "form"], ["task"])
    ax = figures.effects(table).axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["in_pos", "out_pos", "form"]
    points = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o"]
    assert points == pytest.approx([table[t].partial_eta_sq for t in ("in_pos", "out_pos", "form")])
    untestable = anova(oracles.published(), "score", ["input", "output"], interactions="all")
    assert "nothing could be tested" in figures.effects(untestable).axes[0].texts[0].get_text()


def test_dots_lie_at_the_means_with_their_reference(means):
    figure = figures.dot_plot(means.assign(label=means["input"]), "label", lines={"untuned": 0.6})
    ax = figure.axes[0]
    assert ax.lines[0].get_xdata() == pytest.approx(means["mean"])
    assert ax.lines[1].get_xdata()[0] == 0.6 and ax.texts[0].get_text() == "untuned"


def test_the_quantile_plot_is_sorted_and_complete():
    table = anova(oracles.data("warpbreaks_balanced"), "breaks", ["wool", "tension"])
    _, quantiles = figures.diagnostics(table).axes
    drawn = quantiles.lines[0]
    assert len(drawn.get_xdata()) == table.n and (np.diff(drawn.get_ydata()) >= 0).all()


def test_the_grid_shows_real_and_generated_pictures_in_their_places():
    red, green, blue = (np.full((20, 20, 3), 0, np.uint8) for _ in range(3))
    red[..., 0], green[..., 1], blue[..., 2] = 255, 255, 255
    rows = [figures.PictureRow("one", 0.9, [red, green]), figures.PictureRow("two", None, [green, green])]
    figure = figures.picture_grid(rows, [blue], side=64)
    canvas = np.asarray(figure.axes[0].images[0].get_array())
    for colour, count in ((red, 1), (green, 3), (blue, 1)):
        assert (canvas == colour[0, 0]).all(axis=-1).sum() == count * 64 * 64
    blue_at = np.argwhere((canvas == blue[0, 0]).all(axis=-1))[:, 1].max()
    red_at = np.argwhere((canvas == red[0, 0]).all(axis=-1))[:, 1].min()
    assert blue_at < red_at
    assert [t.get_text() for t in figure.axes[0].texts][2:] == ["one", "0.900", "two"]


@pytest.mark.parametrize(("higher", "named"), [(True, "CA_out"), (False, "SA_out")])
def test_cost_names_the_best_designs_of_either_direction(means, higher, named):
    designs = means.assign(label=means["input"], parameters=np.arange(1, 21) * 1000, seconds=1.0)
    figure = figures.cost(designs, "mean", "label", {"parameters": "p", "seconds": "s"}, higher_is_better=higher)
    assert named in [t.get_text() for t in figure.axes[0].texts]
    assert len(figure.axes) == 2


def test_figures_leave_no_global_state():
    from matplotlib import pyplot

    figures.picture_grid([], [])
    assert pyplot.get_fignums() == []
    code = "import sys, analysis.figures, analysis.report.page; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
