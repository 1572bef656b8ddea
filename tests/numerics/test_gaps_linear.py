"""Each gap of torch in sums, statistics and linear algebra is still there, and ours is right."""

from __future__ import annotations

import pytest
import torch
from numerics.gaps import Gap, relative_error
from numerics.gaps_linear import LINEAR_GAPS
from numerics.matrices import rbf

from trimtab.numerics import cholesky_psd


def by_title(gap: Gap) -> str:
    return gap.title


@pytest.mark.parametrize("gap", LINEAR_GAPS, ids=by_title)
def test_ours_is_right(gap):
    assert relative_error(gap.our_values(), gap.exact_values()) <= gap.rtol


@pytest.mark.parametrize("gap", LINEAR_GAPS, ids=by_title)
def test_torch_is_still_wrong_or_this_gap_can_be_retired(gap):
    assert relative_error(gap.torch_values(), gap.exact_values()) > gap.torch_rtol


def test_titles_are_distinct():
    assert len({gap.title for gap in LINEAR_GAPS}) == len(LINEAR_GAPS)


def test_torch_refuses_a_kernel_matrix_that_rounding_made_indefinite():
    kernel = rbf(200, dtype=torch.float32)
    with pytest.raises(torch.linalg.LinAlgError):
        torch.linalg.cholesky(kernel)
    assert cholesky_psd(kernel).jitter > 0
