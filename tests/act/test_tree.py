"""Any tree comes back exactly: from memory, and as JSON with named tensors."""

from __future__ import annotations

import json
import math
import struct
from collections import Counter, OrderedDict, defaultdict, namedtuple
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from trimtab.act.tree import TreeCopy, WriteBack, flatten, unflatten
from trimtab.act.tree_json import join, split


class Pair(NamedTuple):
    first: object
    second: object


def same(a, b) -> bool:
    """Equal in value and type, down to the bits of NaN and the sign of zero."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return (a.dtype, a.shape, a.stride(), a.device) == (b.dtype, b.shape, b.stride(), b.device) and (
            bits(a) == bits(b)
        )
    if isinstance(a, (np.ndarray, np.generic)):
        return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    if isinstance(a, dict):
        keys = len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
        factory = getattr(a, "default_factory", None) is getattr(b, "default_factory", None)
        return keys and factory and same(list(a.values()), list(b.values()))
    if isinstance(a, (list, tuple)) and not isinstance(a, torch.Size):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b)
    if isinstance(a, complex):
        return same([a.real, a.imag], [b.real, b.imag])
    return a == b


def bits(tensor):
    return bytes(tensor.detach().contiguous().reshape(-1).view(torch.uint8).tolist())


def through_memory(tree):
    return TreeCopy(flatten(tree)).whole()


def through_json(tree):
    structure, tensors = split(tree)
    text = json.dumps(structure, allow_nan=False)
    return join(json.loads(text), {key: tensor.clone() for key, tensor in tensors.items()})


DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.bool),
    *(
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.uint16,
        torch.uint32,
        torch.uint64,
    ),
]


@st.composite
def tensors(draw):
    """Any bits in any type and shape."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    size = math.prod(shape) * dtype.itemsize
    raw = draw(st.binary(min_size=size, max_size=size))
    if dtype is torch.bool:
        raw = bytes(byte & 1 for byte in raw)
    flat = torch.frombuffer(bytearray(raw), dtype=torch.uint8) if raw else torch.empty(0, dtype=torch.uint8)
    return flat.clone().view(dtype).reshape(shape)


arrays = st.one_of(
    st.binary(max_size=16).map(lambda raw: np.frombuffer(raw, np.uint8).copy()),
    st.lists(st.floats(width=32), max_size=4).map(lambda xs: np.array(xs, np.float32)),
    st.lists(st.text("ab\u03c0", max_size=3), max_size=3).map(lambda xs: np.array(xs, dtype="<U3")),
    st.integers(-(2**63), 2**63 - 1).map(lambda x: np.array(x)),
)
scalars = st.one_of(
    st.floats(width=32).map(np.float32),
    st.floats().map(np.float64),
    st.integers(0, 255).map(np.uint8),
    st.booleans().map(np.bool_),
    st.text(max_size=3).filter(lambda s: not s.endswith("\0")).map(np.str_),
    st.just(np.datetime64("2024-01-02", "D")),
)
atoms = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.complex_numbers(), st.binary(max_size=4)),
    st.text(st.characters(), max_size=4),
    st.integers(-(2**200), 2**200),
    st.sampled_from(
        [torch.float32, torch.bfloat16, torch.device("cpu"), torch.device("cuda", 1), torch.Size([2, 0])]
    ),
)
hashable = st.one_of(atoms, st.tuples(atoms, st.integers()))
leaves = st.one_of(atoms, arrays, scalars, tensors())
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(hashable, inner, max_size=3),
        st.dictionaries(hashable, inner, max_size=3).map(OrderedDict),
        st.dictionaries(hashable, inner, max_size=3).map(Counter),
        st.dictionaries(hashable, inner, max_size=3).map(lambda d: defaultdict(list, d)),
        st.tuples(inner, inner).map(lambda xs: Pair(*xs)),
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(trees)
def test_every_tree_comes_back_exactly(tree):
    assert same(through_memory(tree), tree)
    assert same(through_json(tree), tree)


def test_the_comparison_sees_every_difference():
    assert not same(0.0, -0.0)
    assert not same(1, 1.0)
    assert not same(1, True)
    assert not same((1,), [1])
    assert not same(math.nan, struct.unpack("d", struct.pack("q", 0x7FF8000000000001))[0])
    assert same(math.nan, math.nan)
    assert not same(torch.tensor(0.0), torch.tensor(-0.0))
    assert not same({1: 2}, {True: 2})


def test_json_is_plain_where_it_can_be():
    structure, _ = split({"lr": 0.1, "steps": [1, 2], "name": None})
    assert structure == {"dict": [["lr", 0.1], ["steps", [1, 2]], ["name", None]]}
    assert split([-0.0, 1e22, 2**64])[0] == [-0.0, 1e22, {"int": "0x10000000000000000"}]


def test_an_integer_beyond_what_python_reads_as_digits():
    huge = -(7**20000)
    assert through_json([huge]) == [huge]


def test_one_tensor_in_two_places_stays_one():
    shared = torch.ones(2)
    tree = {"a": shared, "b": [shared, torch.ones(2)]}
    for came_back in (through_memory(tree), through_json(tree)):
        assert came_back["a"] is came_back["b"][0]
        assert came_back["a"] is not came_back["b"][1]
    assert len(flatten(tree).tensors) == len(split(tree).tensors) == 2


def test_names_in_a_file_are_told_apart():
    tree = {1: torch.ones(1), "1": torch.ones(2), "a.b": torch.ones(3), "a": {"b": torch.ones(4)}}
    assert list(split(tree).tensors) == ["state.1", "state.1#1", "state.a.b", "state.a.b#1"]
    assert same(through_json(tree), tree)
    assert list(split({"\ud800\u03c0": torch.ones(1)}).tensors) == ["state.\\ud800\\u03c0"]


def test_memory_formats_are_kept():
    tree = {"w": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last), "t": torch.randn(3, 2).t()}
    assert same(through_memory(tree), tree)


def test_a_copy_is_a_copy():
    tree = {"x": torch.zeros(2, requires_grad=True), "a": np.zeros(2), "l": [1], "d": {"k": 1}}
    copy = TreeCopy(flatten(tree))
    tree["x"].data.add_(1)
    tree["a"] += 1
    tree["l"].append(2)
    tree["d"]["k"] = 2
    whole = copy.whole()
    assert (whole["x"].tolist(), whole["a"].tolist(), whole["l"], whole["d"]) == (
        [0, 0],
        [0, 0],
        [1],
        {"k": 1},
    )
    assert not whole["x"].requires_grad
    whole["l"].append(3)
    assert copy.whole()["l"] == [1]


def test_lazily_conjugated_and_expanded_tensors_are_copied_by_value():
    z = torch.tensor([1 + 2j]).conj()
    wide = torch.ones(1).expand(3)
    whole = through_memory({"z": z, "wide": wide})
    assert whole["z"].tolist() == [1 - 2j]
    whole["wide"][0] = 5.0
    assert whole["wide"].tolist() == [5.0, 1.0, 1.0]


def test_metadata_of_a_state_dict_is_kept():
    state = nn.Sequential(nn.BatchNorm1d(2)).state_dict()
    for came_back in (through_memory(state), through_json(state)):
        assert came_back._metadata == state._metadata
        assert came_back._metadata["0"] == {"version": 2}


@pytest.mark.parametrize(
    ("tree", "where"),
    [
        ({"a": [1, (2, {3})]}, r"state\['a'\]\[1\]\[1\] is of type set"),
        ({"f": lambda: 0}, r"state\['f'\] is of type function"),
        ({3: nn.Linear(1, 1)}, r"state\[3\] is of type torch.nn.modules.linear.Linear"),
        (
            [torch.eye(2).to_sparse()],
            r"state\[0\] is of type torch.Tensor on cpu with layout torch.sparse_coo",
        ),
        ([torch.empty(2, device="meta")], r"state\[0\] is of type torch.Tensor on meta"),
        ([nn.UninitializedParameter()], r"state\[0\] is of type torch.nn.parameter.UninitializedParameter"),
        ([np.array([{}])], r"state\[0\] is of type numpy.ndarray and dtype object"),
        ([np.zeros(2, dtype=[("x", "f4")])], r"state\[0\] is of type numpy.ndarray and dtype \[\('x'"),
        ({"d": {torch.ones(1): 1}}, r"a key of state\['d'\] is of type torch.Tensor"),
        ({"d": defaultdict(lambda: 1)}, r"state\['d'\] is of type collections.defaultdict"),
        ([namedtuple("Local", "x")(1)], r"state\[0\] is of type .*Local"),
        ([torch.ones(1).max(0)], r"state\[0\] is of type torch.return_types.max"),
    ],
)
def test_what_is_no_tree_is_named_with_its_place(tree, where):
    with pytest.raises(TypeError, match=where + r".*a snapshot cannot hold it\. It can hold numbers"):
        flatten(tree)


def test_a_file_cannot_name_what_is_not_there():
    pair = {"namedtuple": [Pair.__module__, "Pair", ["first", "second"], [1, 2]]}
    assert join(pair, {}) == Pair(1, 2)
    for module, name in (("subprocess", "Popen"), ("antigravity", "x"), (Pair.__module__, "nothing")):
        with pytest.raises(ValueError, match=r"is not there. Import its module first"):
            join({"namedtuple": [module, name, ["first", "second"], [1, 2]]}, {})
    with pytest.raises(ValueError, match="is not there"):
        join({"namedtuple": [Pair.__module__, "Pair", ["first", "third"], [1, 2]]}, {})
    with pytest.raises(ValueError, match="no dtype"):
        join({"dtype": "nn"}, {})
    with pytest.raises(ValueError, match="holds objects"):
        join({"array": ["|O", [1], "00" * 8]}, {})
    with pytest.raises(ValueError, match="'eval' is no kind of entry"):
        join({"eval": "1"}, {})


# The memory of one copy for the next


def test_memory_that_fits_is_used_again():
    first = TreeCopy(flatten({"a": torch.zeros(3), "b": torch.zeros(2)}))
    second = TreeCopy(flatten({"a": torch.ones(3), "b": torch.ones(2)}), memory=first)
    assert second.tensors is first.tensors
    assert second.whole()["a"].tolist() == [1, 1, 1]


def test_memory_that_fits_in_part_is_used_in_part():
    first = TreeCopy(flatten({"a": torch.zeros(3), "b": torch.zeros(2), "c": torch.zeros(3)}))
    known = {t.data_ptr() for t in first.tensors}
    tree = {
        "n": torch.ones(4),
        "a": torch.ones(3),
        "b": torch.ones(2).double(),
        "c": torch.ones(3),
        "d": torch.ones(3),
    }
    second = TreeCopy(flatten(tree), memory=first)
    assert [t.data_ptr() in known for t in second.tensors] == [False, True, False, True, False]
    assert len({t.data_ptr() for t in second.tensors}) == 5
    assert same(second.whole(), tree)


def test_nothing_is_broadcast_or_cast_into_memory_of_another_kind():
    first = TreeCopy(flatten([torch.zeros(3, 2), torch.zeros(3)]))
    tree = [torch.ones(2), torch.ones(3, dtype=torch.int64)]
    assert same(TreeCopy(flatten(tree), memory=first).whole(), tree)


# Writing back


def written_back(live, saved):
    copy = TreeCopy(flatten(saved))
    back = WriteBack(copy, {})
    result = back.into(live, copy.structure)
    back.run()
    return result


def test_writing_back_uses_what_fits():
    live = {
        "fits": torch.zeros(2),
        "shape": torch.zeros(3),
        "type": torch.zeros(2).double(),
        "deep": [torch.zeros(1)],
    }
    saved = {
        "fits": torch.ones(2),
        "shape": torch.ones(2),
        "type": torch.ones(2),
        "deep": [torch.ones(1)],
        "new": 1,
    }
    result = written_back(live, saved)
    assert same(result, saved)
    assert [result[key] is live[key] for key in ("fits", "shape", "type")] == [True, False, False]
    assert result["deep"][0] is live["deep"][0]


def test_tensors_that_were_one_and_are_two_become_one_again_and_the_other_way_round():
    shared = torch.ones(2)
    result = written_back([torch.zeros(2), torch.zeros(2)], [shared, shared])
    assert result[0] is result[1]
    shared = torch.zeros(2)
    result = written_back([shared, shared], [torch.ones(2), torch.full((2,), 2.0)])
    assert [x.tolist() for x in result] == [[1, 1], [2, 2]]


def test_a_part_of_a_tree_can_be_put_together_alone():
    structure, found = flatten({"a": torch.zeros(1), "b": {"c": torch.ones(1)}})
    assert unflatten(structure["b"], found.__getitem__) == {"c": torch.ones(1)}


@pytest.mark.parametrize("tree", [{}, {"step": 3, "name": "a"}, [1, (2.0, None)]])
def test_a_tree_without_tensors_is_written_back(tree):
    copy = TreeCopy(flatten(tree))
    back = WriteBack(copy, {})
    live = back.into({"step": 4, "more": 1}, copy.structure)
    back.run()
    assert live == tree
