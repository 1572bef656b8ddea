import sysconfig
from pathlib import Path

import pytest
import torch

from trimtab.demo.corpus import draw_rows, source_documents, split_documents, stdlib_corpus


def write(root: Path, name: str, text: bytes) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text)


def test_sources_are_read_in_path_order_without_the_skipped_folders(tmp_path):
    write(tmp_path, "b.py", b"two")
    write(tmp_path, "a/z.py", b"one")
    write(tmp_path, "c/__init__.py", b"")
    for folder in ("test", "site-packages/torch", "c/tests", "c/__pycache__", "idlelib", "lib2to3"):
        write(tmp_path, f"{folder}/x.py", b"not me")
    write(tmp_path, "notes.txt", b"nor me")
    assert source_documents(tmp_path) == (b"one", b"two", b"")


def test_a_dangling_link_is_passed_over(tmp_path):
    write(tmp_path, "a.py", b"one")
    try:
        (tmp_path / "b.py").symlink_to(tmp_path / "gone.py")
    except OSError:
        pytest.skip("no symbolic links here")
    assert source_documents(tmp_path) == (b"one",)


def test_the_split_holds_out_every_twentieth_document_that_can_be_scored():
    documents = [b"", b"x", *(f"document {i}".encode() for i in range(41))]
    corpus = split_documents(documents)
    assert corpus.held_out == (b"document 0", b"document 20", b"document 40")
    assert sorted(corpus.train + corpus.held_out) == sorted(documents)
    assert corpus.num_empty == 1


@pytest.mark.parametrize("documents", [(), (b"",), (b"", b"x"), (b"import os",)])
def test_too_few_documents_are_refused(documents):
    with pytest.raises(ValueError, match="expected at least two"):
        split_documents(documents)


def test_this_python_has_documents_and_the_split_keeps_its_empty_ones():
    corpus = stdlib_corpus()
    assert corpus == stdlib_corpus()
    assert len(corpus.train) > 90
    assert all(len(document) > 1 for document in corpus.held_out)
    documents = source_documents(Path(sysconfig.get_path("stdlib")))
    assert corpus.num_empty == sum(not document for document in documents)


def test_without_sources_in_the_standard_library_those_of_torch_stand_in(tmp_path, monkeypatch):
    monkeypatch.setattr("trimtab.demo.corpus.sysconfig.get_path", lambda name: str(tmp_path))
    corpus = stdlib_corpus()
    assert len(corpus.train) > 90


def test_rows_are_padded_windows_and_repeat_with_the_seed():
    documents = (b"", b"abc", bytes(range(1, 201)))
    rows = draw_rows(documents, 64, 10, torch.Generator().manual_seed(3))
    again = draw_rows(documents, 64, 10, torch.Generator().manual_seed(3))
    assert torch.equal(rows.values, again.values)
    assert torch.equal(rows.lengths, again.lengths)
    assert set(rows.lengths.tolist()) == {0, 3, 10}
    starts = set()
    for values, length in zip(rows.values.tolist(), rows.lengths.tolist(), strict=True):
        assert any(bytes(values[:length]) in document for document in documents)
        assert values[length:] == [0] * (10 - length)
        starts.add(values[0])
    assert len(starts) > 5
