from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.report.layer_grid import layer_cells

NAN, INF = float("nan"), float("inf")


def cells_of(data, steps, faulty=(), max_columns=500, max_rows=600):
    data, steps = np.asarray(data, dtype=np.float32), np.asarray(steps)
    norms = np.ma.array(data, mask=data == -1)
    is_faulty = np.isin(steps, list(faulty))
    return layer_cells(norms, steps, is_faulty, max_columns=max_columns, max_rows=max_rows)


def test_cells_keep_the_worst_of_what_they_hold():
    data = np.ones((100, 50))
    data[13, 7], data[55, 20], data[80, 40], data[90, 45] = NAN, INF, 77.0, -1.0
    cells = cells_of(data, np.arange(100), faulty=[13], max_columns=10, max_rows=5)
    assert cells.norms.shape == (10, 5)
    assert cells.has_nan.nonzero() == (np.array([1]), np.array([0]))
    assert cells.has_inf.nonzero() == (np.array([5]), np.array([2]))
    assert cells.norms[8, 4] == 77.0
    assert not cells.is_absent.any()
    assert cells_of(data, np.arange(100)).is_absent.nonzero() == (np.array([90]), np.array([45]))


def test_faulty_steps_besides_the_cadence_take_one_column_each():
    cadence, faulty = np.arange(0, 400, 20), np.arange(7, 400, 16)  # 25 of 45 recorded rows are faulty
    steps = np.sort(np.concatenate((cadence, faulty)))
    data = np.where(np.isin(steps, faulty), NAN, 1.0 + steps)[:, None]
    cells = cells_of(data, steps, faulty)
    assert cells.has_nan[:, 0].nonzero()[0].tolist() == faulty.tolist()
    healthy = ~cells.has_nan[:, 0]
    columns = np.arange(len(healthy))[healthy]
    # each shows the nearest step of the cadence
    assert np.abs(cells.norms[healthy, 0] - 1 - columns).max() <= 12
    assert not cells.is_absent.any()


def test_a_faulty_step_wins_where_a_healthy_one_shares_its_column():
    steps = np.arange(10_000)
    data = np.ones((10_000, 2))
    data[5000] = NAN, 9.0
    cells = cells_of(data, steps, faulty=[5000], max_columns=100)
    assert cells.has_nan.nonzero() == (np.array([50]), np.array([0]))
    assert (cells.norms[50] == [1.0, 9.0]).all()


def test_far_from_any_healthy_row_nothing_is_claimed():
    steps = [0, 20, 40, 300, 320, 340]
    cells = cells_of([[1.0], [1.0], [1.0], [NAN], [NAN], [NAN]], steps, faulty=[300, 320, 340])
    assert cells.norms[:81, 0].tolist() == [1.0] * 81
    assert cells.is_absent[81:300].all()
    assert cells.has_nan[:, 0].nonzero()[0].tolist() == [300, 320, 340]


def test_rows_of_a_run_that_was_done_again_need_no_order():
    cells = cells_of([[1.0], [2.0], [5.0], [3.0]], [0, 1, 1, 2])
    assert cells.norms[:, 0].tolist() == [1.0, 5.0, 3.0]


@settings(max_examples=60, deadline=None)
@given(
    steps=st.sets(st.integers(0, 3000), min_size=1, max_size=60),
    share=st.integers(1, 4),
    max_columns=st.integers(1, 200),
)
def test_every_fault_is_visible_and_none_is_invented(steps, share, max_columns):
    steps = np.array(sorted(steps))
    faulty = steps[::share]
    data = np.where(np.isin(steps, faulty), NAN, 1.0)[:, None]
    cells = cells_of(data, steps, faulty, max_columns=max_columns)
    span = steps[-1] - steps[0] + 1
    num = min(span, max_columns)
    expected = np.unique(((faulty - steps[0]) * (num / span)).astype(int).clip(0, num - 1))
    assert cells.has_nan[:, 0].nonzero()[0].tolist() == expected.tolist()
