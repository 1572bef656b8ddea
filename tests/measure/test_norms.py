from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import norm

import trimtab as tt
from trimtab import measure

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128]
P_NORMS = [0.5, 1.0, 2.0, 3.0, math.inf]


@pytest.mark.parametrize("p", P_NORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_norms_equal_a_float64_reference(dtype, p):
    tensors = [torch.randn(shape, dtype=dtype) for shape in [(7,), (3, 5), (), (2, 3, 4)]]
    stats = measure.step_stats(tensors, norm_type=p)
    for got, tensor in zip(stats.tensor_norms.tolist(), tensors, strict=True):
        assert got == pytest.approx(norm([tensor], p), rel=1e-5)
    assert stats.grad_norm.item() == pytest.approx(norm(tensors, p), rel=1e-5)


@pytest.mark.parametrize("p", P_NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_total_equals_torch_where_torch_is_right(dtype, p):
    tensors = [torch.randn(50, 20, dtype=dtype), torch.randn(64, dtype=dtype)]
    ours = measure.step_stats(tensors, norm_type=p).grad_norm
    theirs = torch.nn.utils.get_total_norm(tensors, p)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5 if p < 1 else 1e-6)


@pytest.mark.parametrize("p", P_NORMS)
@pytest.mark.parametrize(
    ("dtype", "largest"),
    [
        (torch.float32, 3e38),
        (torch.float64, 1e307),
        (torch.bfloat16, 3e38),
        (torch.float16, 6e4),
        (torch.complex64, 2e38),
    ],
    ids=str,
)
def test_finite_elements_never_give_an_infinite_norm(dtype, largest, p):
    tensor = torch.full((3,), largest, dtype=dtype)
    other = torch.ones(4, dtype=dtype)
    got = measure.tensor_norms([tensor, other], norm_type=p).tolist()
    assert got[0] == pytest.approx(norm([tensor], p), rel=1e-5)
    assert got[1] == pytest.approx(norm([other], p), rel=1e-6)


def test_torch_itself_calls_that_norm_infinite():
    """The claim behind the test above; to be retired when torch is mended."""
    assert torch.nn.utils.get_total_norm([torch.full((3,), 1e30)]).isinf()


def test_total_beyond_float32_stays_finite():
    tensors = [torch.full((1,), 3e38) for _ in range(4)]
    assert measure.step_stats(tensors).grad_norm.item() == pytest.approx(6e38, rel=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_bad_element_makes_its_own_norm_and_the_total_bad_and_no_other(dtype, bad):
    tensors = [torch.ones(4, dtype=dtype), torch.ones(2, 3, dtype=dtype), torch.ones(5, dtype=dtype)]
    tensors[1][1, 2] = bad
    stats = measure.step_stats(tensors)
    assert [math.isfinite(n) for n in stats.tensor_norms.tolist()] == [True, False, True]
    assert not math.isfinite(stats.grad_norm.item())


def test_half_precision_norm_is_summed_in_float32_and_does_not_depend_on_grouping():
    tensor = torch.randn(4096, 64).bfloat16()
    whole = measure.step_stats([tensor]).grad_norm.item()
    parts = measure.step_stats(list(tensor.split(512))).grad_norm.item()
    assert whole == pytest.approx(parts, rel=5e-6)
    assert whole == pytest.approx(norm([tensor]), rel=1e-5)


def test_large_tensors_are_summed_more_exactly_than_by_torch():
    tensor = torch.randn(12_000_000)
    exact = torch.linalg.vector_norm(tensor.double()).item()
    ours = measure.tensor_norms([tensor, torch.ones(2)])
    assert abs(ours[0].item() / exact - 1) < 3e-5
    assert ours[1].item() == pytest.approx(math.sqrt(2))
    assert abs(torch.linalg.vector_norm(tensor).item() / exact - 1) > 1e-4  # retire when torch is mended


@pytest.mark.parametrize("p", P_NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_many_small_tensors_between_large_ones(dtype, p):
    sizes = [(7,), (2000,), (3, 5), (), *[(n % 89 + 1,) for n in range(600)], (40, 50), (0,)]
    tensors = [torch.randn(size, dtype=dtype) for size in sizes]
    tensors[11].fill_(3e38 if dtype is not torch.float64 else 1e300)
    tensors[20][3] = math.nan
    tensors[30][:] = 1e30
    got = measure.tensor_norms(tensors, norm_type=p).tolist()
    for index, tensor in enumerate(tensors):
        if index == 20:
            assert math.isnan(got[index])
        else:
            assert got[index] == pytest.approx(norm([tensor], p), rel=1e-5)


def test_sparse_duplicates_add_up_before_they_are_squared():
    indices = torch.tensor([[0, 0, 2]])
    sparse = torch.sparse_coo_tensor(indices, torch.tensor([3.0, 1.0, 2.0]), (4,), check_invariants=True)
    assert measure.tensor_norms([sparse]).item() == pytest.approx(math.sqrt(16 + 4))


def test_mixed_types_keep_their_order():
    tensors = [
        torch.full((4,), 1.0, dtype=torch.bfloat16),
        torch.full((4,), 2.0, dtype=torch.float64),
        torch.full((4,), 3.0),
        torch.full((4,), 4.0, dtype=torch.bfloat16),
    ]
    assert measure.tensor_norms(tensors).tolist() == [2.0, 4.0, 6.0, 8.0]


@pytest.mark.parametrize("p", P_NORMS)
def test_empty_tensor_has_norm_zero(p):
    assert measure.tensor_norms([torch.empty(0, 3), torch.ones(1)], norm_type=p).tolist() == [0.0, 1.0]


def test_no_tensor_is_an_error():
    with pytest.raises(ValueError, match="at least one tensor"):
        measure.tensor_norms([])


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(3000, 4000).t(),
        torch.randn(64, 64, 50, 50).to(memory_format=torch.channels_last),
        torch.randn(2000, 4000)[:, ::2],
    ],
    ids=["transposed", "channels-last", "strided"],
)
def test_non_contiguous_gradients(tensor):
    exact = torch.linalg.vector_norm(tensor.double()).item()
    assert measure.tensor_norms([tensor]).item() == pytest.approx(exact, rel=3e-5)


def test_conjugated_gradients():
    tensor = torch.randn(5, dtype=torch.complex64).conj()
    assert measure.tensor_norms([tensor]).item() == pytest.approx(norm([tensor.resolve_conj()]), rel=1e-5)
    assert measure.census([("z", tensor)], tt.types.Place.GRADIENT) == ()


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    exponent=st.integers(-30, 37),
    seed=st.integers(0, 99),
    p=st.sampled_from(P_NORMS),
)
@settings(max_examples=60, deadline=None)
def test_norm_over_the_whole_range_of_float32(sizes, exponent, seed, p):
    generator = torch.Generator().manual_seed(seed)
    # powers of two apart from subnormals, so that the reference sees the same numbers
    tensors = [torch.randn(n, generator=generator) * 10.0**exponent for n in sizes]
    got = measure.step_stats(tensors, norm_type=p).grad_norm.item()
    want = norm(tensors, p)
    if exponent >= -12 or p in (1.0, math.inf):  # squares below 1e-38 are lost: a norm of 0 never clips
        assert got == pytest.approx(want, rel=1e-4)
    else:
        # each square, and each partial sum, is rounded by up to half a subnormal
        assert got**2 <= (want * (1 + 1e-4)) ** 2 + 2 * sum(sizes) * 2.0**-150


def test_statistics_are_read_in_one_copy_and_stay_as_they_were():
    stats = measure.step_stats([torch.tensor([3.0]), torch.tensor([4.0])], torch.tensor(2.5))
    read = stats.read()
    assert (read.loss, read.grad_norm, read.tensor_norms.tolist()) == (2.5, 5.0, [3.0, 4.0])
    assert read.read() is read
