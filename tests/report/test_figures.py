from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest

from trimtab.errors import MissingDependencyError
from trimtab.record import FaultEvent, RunLog
from trimtab.report import figures
from trimtab.report.theme import DARK, LIGHT, to_svg
from trimtab.types import Action, Kind, Place

NAN, INF = float("nan"), float("inf")
PLOTS = [getattr(figures, name) for name in dir(figures) if name.startswith("plot_")]


def words(figure) -> str:
    return to_svg_text(figure)


def to_svg_text(figure) -> str:
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    for axes in figure.axes:
        texts += [axes.get_title(loc="left"), axes.get_ylabel(), axes.get_xlabel()]
        legend = axes.get_legend()
        texts += [text.get_text() for text in legend.get_texts()] if legend else []
    return "\n".join(texts)


def lines(axes) -> dict[str, np.ndarray]:
    return {line.get_label(): line.get_ydata() for line in axes.get_lines()}


def test_all_figures_are_there():
    names = {plot.__name__ for plot in PLOTS}
    assert names == {
        "plot_" + n for n in ("loss", "norms", "clipping", "faults", "layers", "score", "distributions")
    }


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.__name__)
def test_a_run_can_be_drawn_on_light_and_dark_paper(eventful, plot):
    for theme in (LIGHT, DARK):
        svg = to_svg(plot(eventful, theme=theme))
        assert svg.startswith(b"<?xml")
    assert svg == to_svg(plot(eventful, theme=DARK))  # the same figure, the same bytes


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.__name__)
def test_edge_cases_draw_without_a_warning(edge_log, plot):
    assert len(to_svg(plot(edge_log))) > 1000


def test_empty_logs_say_so():
    log = RunLog.from_arrays(loss=[])
    assert "The log is empty" in words(figures.plot_loss(log))
    assert "The log is empty" in words(figures.plot_faults(log))
    assert "No per-layer norms were recorded" in words(figures.plot_layers(log))
    one = RunLog.from_arrays(loss=[1.0])
    assert "No gradient norm was recorded" in words(figures.plot_norms(one))
    assert "No clip factor was recorded" in words(figures.plot_clipping(one))
    assert "No faults" in words(figures.plot_faults(one))
    assert "No loss is finite" in words(figures.plot_loss(RunLog.from_arrays(loss=[NAN])))
    assert "All gradient norms are 0" in words(figures.plot_norms(RunLog.from_arrays(grad_norm=[0.0] * 3)))


def test_bad_steps_are_counted_in_the_legend_and_absent_ones_are_not():
    log = RunLog.from_arrays(loss=[1.0, NAN, None, INF, 2.0], grad_norm=[0.0, 1.0, INF, 0.0, 3.0])
    assert "NaN or Inf (2 steps)" in words(figures.plot_loss(log))
    text = words(figures.plot_norms(log))
    assert "NaN or Inf (1 step)" in text
    assert "exactly 0 (2 steps)" in text


def test_norms_are_drawn_before_and_after_clipping():
    log = RunLog.from_arrays(grad_norm=[4.0, INF, 8.0], clip_factor=[0.25, 0.0, 0.125])
    (axes,) = figures.plot_norms(log).axes
    drawn = lines(axes)
    np.testing.assert_array_equal(drawn["before clipping"], [4.0, NAN, 8.0])
    np.testing.assert_array_equal(drawn["after clipping"], [1.0, NAN, 1.0])
    assert axes.get_yscale() == "log"


def test_a_wide_loss_gets_a_log_axis_and_a_narrow_or_negative_one_does_not():
    def scale(loss):
        return figures.plot_loss(RunLog.from_arrays(loss=loss)).axes[0].get_yscale()

    assert scale([1.0, 2.0, 3.0]) == "linear"
    assert scale([1.0, 1e5]) == "log"
    assert scale([-1.0, 1e5]) == "linear"
    assert scale([0.0, 1e5]) == "linear"


def test_distributions_are_those_of_the_thirds():
    loss = [9.0] * 10 + [5.0] * 10 + [1.0] * 9 + [NAN]
    left = figures.plot_distributions(RunLog.from_arrays(loss=loss)).axes[0]
    text = to_svg_text(left.figure)
    assert "1 not finite left out" in text
    assert "No gradient norm was recorded" in text
    shares = {patch.get_label(): patch.get_data() for patch in left.patches if "third" in patch.get_label()}
    for label, value in (("first third", 9.0), ("middle third", 5.0), ("last third", 1.0)):
        data = shares[label]
        [bin_] = np.flatnonzero(data.values)
        assert data.values[bin_] == 100.0
        assert data.edges[bin_] <= value <= data.edges[bin_ + 1]


def test_a_wide_distribution_gets_a_log_axis():
    def scale(loss):
        return figures.plot_distributions(RunLog.from_arrays(loss=loss)).axes[0].get_xscale()

    assert scale([1.0, 2.0, 3.0]) == "linear"
    assert scale([1.0, 1e5, 1e3]) == "log"
    assert scale([0.0, 1e5, 1e3]) == "log"  # zeros are in the lowest bin
    assert scale([-1.0, 1e5]) == "linear"


def test_a_baseline_is_drawn_behind(eventful):
    baseline = RunLog.from_arrays(loss=[2.0] * 100 + [NAN] * 300)
    figure = figures.plot_loss(eventful, baseline=baseline)
    drawn = lines(figure.axes[0])
    assert {"baseline", "this run"} <= set(drawn)
    assert "baseline NaN or Inf (300 steps)" in words(figure)
    assert figure.axes[0].get_xlim()[1] > 399


def test_the_fault_timeline_has_a_line_per_kind_and_place(eventful):
    figure = figures.plot_faults(eventful)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["NaN in the loss", "NaN in the gradient", "Inf in the gradient"]
    assert "update skipped" in words(figure)
    totals = lines(figure.axes[1])
    assert (totals["NaN"][-1], totals["Inf"][-1]) == (6, 7)


def test_the_heat_map_marks_what_is_special(eventful):
    figure = figures.plot_layers(eventful)
    text = words(figure)
    for label in ("NaN", "Inf", "0", "nothing recorded"):
        assert label in text.split("\n")
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names[0] == "embed.weight"
    (image,) = figure.axes[0].get_images()
    num_steps = eventful.layer_steps[-1] - eventful.layer_steps[0] + 1
    assert image.get_array().shape == (26, num_steps, 4)
    assert image.get_extent()[:2] == [-0.5, eventful.layer_steps[-1] + 0.5]


def test_many_layers_and_rows_are_thinned():
    names = tuple(f"{'very.' * 20}long.{i}" for i in range(2000))
    norms = np.ones((1500, 2000), dtype=np.float32)
    log = RunLog.from_arrays(loss=np.ones(1500), layer_names=names, layer_norms=norms)
    axes = figures.plot_layers(log).axes[0]
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert len(shown) == 30
    assert max(map(len, shown)) <= 34
    assert axes.get_images()[0].get_array().shape == (600, 500, 4)


def test_names_beyond_the_font_are_drawn_without_a_warning():
    names = (chr(0x5C64) + ".weight", "bl" + chr(0xF6) + "ck", "a\nb", chr(0xDC80))
    log = RunLog.from_arrays(loss=[1.0], layer_names=names, layer_norms=np.ones((1, 4)))
    figure = figures.plot_layers(log)
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert shown == ["?.weight", names[1], "a?b", "?"]
    assert to_svg(figure)
    figure.canvas.draw()  # as the reader's own savefig would


def spiky() -> RunLog:
    log = RunLog.from_arrays(
        loss=[1.0] * 9, grad_norm=[1.0] * 9, layer_names=("a",), layer_norms=np.ones((9, 1))
    )
    spikes = [FaultEvent(s, Kind.SPIKE, Place.GRADIENT, Action.SKIP, "why", 2.0 + s) for s in (4, 5)]
    return dataclasses.replace(log, faults=tuple(spikes))


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.__name__)
def test_a_run_with_spikes_only_is_drawn_without_bad_numbers(plot):
    figure = plot(spiky())
    assert to_svg(figure)
    text = words(figure)
    assert "NaN" not in text
    assert "Inf" not in text


def test_spikes_have_a_line_of_their_own():
    figure = figures.plot_faults(spiky())
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["spike in the gradient"]
    assert lines(figure.axes[1])["spike"][-1] == 2


def test_a_million_steps_are_few_points():
    num = 1_000_000
    loss = np.ones(num)
    loss[777_777], loss[5] = 9.0, NAN
    axes = figures.plot_loss(RunLog.from_arrays(loss=loss)).axes[0]
    drawn = lines(axes)["loss"]
    assert len(drawn) < 2500
    assert np.nanmax(drawn) == 9.0


def test_the_log_draws_itself(eventful):
    for draw in (
        eventful.plot_loss,
        eventful.plot_norms,
        eventful.plot_clipping,
        eventful.plot_faults,
        eventful.plot_layers,
        eventful.plot_score,
        eventful.plot_distributions,
    ):
        assert draw().axes


def test_without_matplotlib_the_extra_is_named(eventful, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match=r"trimtab\[report\]"):
        eventful.plot_norms()
