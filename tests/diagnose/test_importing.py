"""Logs of other tools."""

from __future__ import annotations

import csv
import json
import struct
from pathlib import Path

import numpy as np
import pytest

from trimtab.diagnose import certificate, diagnose, from_rows, load
from trimtab.diagnose.tables import records
from trimtab.errors import RunLogError
from trimtab.record import RunLog

# Written by transformers 5.24 (Trainer, 60 steps, 3 evaluations), tensorboard 2.21 (SummaryWriter, 120 steps)
REAL = Path(__file__).parent / "real"

LOSS = np.where(
    np.arange(200) < 120, 2.3 * np.exp(-np.arange(200) / 40) + 0.1, 0.2 * 1.05 ** (np.arange(200) - 120.0)
)


def rows(loss="train/loss", lr="learning_rate"):
    return [{"step": 10 * k, loss: float(x), lr: 0.1} for k, x in enumerate(LOSS)]


def varint(number):
    out = b""
    while True:
        out += bytes([number & 127 | (128 if number > 127 else 0)])
        number >>= 7
        if not number:
            return out


def field(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def event(step, tag, value, *, as_tensor):
    number = (
        field(8, varint(1 << 3) + varint(1) + field(4, struct.pack("<f", value)))
        if as_tensor
        else varint(2 << 3 | 5) + struct.pack("<f", value)
    )
    summary = field(1, field(1, tag.encode()) + number)
    data = varint(1 << 3 | 1) + struct.pack("<d", 1.5) + varint(2 << 3) + varint(step) + field(5, summary)
    return struct.pack("<Q", len(data)) + b"\0" * 4 + data + b"\0" * 4


def check(log):
    assert np.allclose(log.loss, LOSS, rtol=1e-6)
    assert log.step.tolist() == list(range(0, 2000, 10))
    assert [f.cause.value for f in diagnose(log)] == ["loss_explosion"]


def test_csv(tmp_path):
    for suffix, delimiter in ((".csv", ","), (".tsv", "\t")):
        with (tmp_path / f"log{suffix}").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["step", "Train Loss", "lr", "note"], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(
                {"step": r["step"], "Train Loss": r["train/loss"], "lr": "", "note": "x"} for r in rows()
            )
        check(load(tmp_path / f"log{suffix}"))


def test_jsonl_trainer_state_and_columns(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows())) + "\n")
    check(load(tmp_path / "a.jsonl"))
    history = [*rows("loss"), {"step": 500, "eval_loss": 0.7, "eval_runtime": 3.0}]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"global_step": 2000, "log_history": history}))
    for path in (tmp_path, tmp_path / "trainer_state.json"):
        log = load(path)
        check(log)
        assert log.metrics["val_loss"][0].tolist() == [500]
    (tmp_path / "b.json").write_text(
        json.dumps({"step": [10 * k for k in range(200)], "loss": LOSS.tolist()})
    )
    check(load(tmp_path / "b.json"))


@pytest.mark.parametrize("as_tensor", [False, True])
def test_event_files(tmp_path, as_tensor):
    data = b"".join(event(10 * k, "train/loss", x, as_tensor=as_tensor) for k, x in enumerate(LOSS))
    file = tmp_path / "events.out.tfevents.123.host"
    file.write_bytes(data + b"\x05")  # cut off in the middle of a record, as by a crash
    check(load(tmp_path))


def test_what_is_no_log(tmp_path):
    with pytest.raises(RunLogError, match="no file"):
        load(tmp_path / "absent.csv")
    (tmp_path / "x.csv").write_text("step,accuracy\n1,0.5\n")
    with pytest.raises(RunLogError, match="holds no loss: found accuracy"):
        load(tmp_path / "x.csv")
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(RunLogError, match="expected log_history"):
        load(tmp_path / "x.json")
    (tmp_path / "events.out.tfevents.1").write_bytes(b"\xff" * 64)
    with pytest.raises(RunLogError, match="no event file"):
        load(tmp_path / "events.out.tfevents.1")


def test_a_state_that_a_real_trainer_wrote():
    log = load(REAL / "trainer_state.json")
    records = json.loads((REAL / "trainer_state.json").read_text())["log_history"]
    assert log.loss.tolist() == [r["loss"] for r in records if "loss" in r]
    assert len(log.loss) == 60
    # the mean over the run, which the last record holds, is not the loss of the last step
    assert log.loss[-1] != records[-1]["train_loss"]
    assert log.metrics["train_loss"][1].tolist() == [records[-1]["train_loss"]]
    assert log.metrics["val_loss"][0].tolist() == [20, 40, 60]
    assert np.isfinite(log.grad_norm).all()
    assert diagnose(log) == ()


def test_event_files_that_a_real_writer_wrote():
    log = load(REAL / "events")  # two files and a curve of its own in a folder below
    assert log.step.tolist() == list(range(120))
    assert np.flatnonzero(np.isnan(log.loss)).tolist() == [60]
    assert log.loss[0] > 1.0  # hparam/loss is 0 at step 0, and is not the loss
    assert log.metrics["val_loss"][0].tolist() == [19, 39, 59, 79, 99, 119]
    assert [f.cause.value for f in diagnose(log)] == ["loss_nan"]


def test_what_a_writer_of_today_writes(tmp_path):
    pytest.importorskip("tensorboard")  # an extra of the developers
    from torch.utils.tensorboard import SummaryWriter

    for part in (range(30), range(30, 60)):  # a run that was resumed
        with SummaryWriter(str(tmp_path), filename_suffix=f".{part[0]}") as writer:
            for step in part:
                writer.add_scalar("train/loss", 2.0 * 0.97**step, step)
                writer.add_scalar("train/grad_norm", 1.0, step, new_style=True)
            writer.add_histogram("weights", np.arange(9.0), part[0])
    log = load(tmp_path)
    assert np.allclose(log.loss, 2.0 * 0.97 ** np.arange(60), rtol=1e-6)
    assert log.grad_norm.tolist() == [1.0] * 60


def test_the_name_with_the_most_values_is_the_loss(tmp_path):
    rows = [{"step": s, "loss": 3.0 - 0.1 * s} for s in range(10)] + [{"step": 9, "train_loss": 99.0}]
    file = tmp_path / "log.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    assert load(file).loss[-1] == pytest.approx(2.1)


def test_a_line_that_is_being_written_is_left_out(tmp_path):
    whole = "".join(json.dumps({"step": k, "loss": 1.0 / (k + 1)}) + "\n" for k in range(30))
    (tmp_path / "log.jsonl").write_text(whole + '{"step": 30, "lo')
    assert load(tmp_path / "log.jsonl").num_steps == 30
    (tmp_path / "log.jsonl").write_text('{"step": 30, "lo\n' + whole)
    with pytest.raises(RunLogError):
        load(tmp_path / "log.jsonl")


def table(names, rows, delimiter):
    lines = [delimiter.join(names), *(delimiter.join(map(str, row)) for row in rows)]
    return "\n".join(lines) + "\n"


NUMBERS = [(10 * k, f"{x:.6f}") for k, x in enumerate(LOSS)]


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
@pytest.mark.parametrize("decimal", [".", ","])
@pytest.mark.parametrize(
    "head", ["", "\ufeff", "# "]
)  # a byte order mark as of Excel; as numpy.savetxt writes
def test_tables_of_other_separators_and_decimals(tmp_path, delimiter, decimal, head):
    rows = [(step, loss.replace(".", decimal), "") for step, loss in NUMBERS]
    (tmp_path / "run.csv").write_text(head + table(("Step", "Train Loss", "note"), rows, delimiter))
    log = load(tmp_path)  # the only table in the folder
    assert np.allclose(log.loss, LOSS, atol=1e-6)
    assert log.step.tolist() == list(range(0, 2000, 10))


def test_thousands_and_exponents():
    text = "step;loss\n1;1.234,5\n2;-,5e-3\n3;1.5\n4;x,y\n"
    assert [row["loss"] for row in records(text)] == ["1234.5", "-.5e-3", "1.5", "x,y"]
    assert records("loss\n0,5\n") == [{"loss": "0.5"}]


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("run-exp1-tag-Loss_train.csv", "loss"),
        ("run-.-tag-train_loss.csv", "loss"),
        ("exp1.csv", "loss"),
        ("run-exp1-tag-learning_rate.csv", "lr"),
        ("val_loss.csv", "val_loss"),
    ],
)
def test_what_tensorboard_exports(tmp_path, name, column):
    rows = [(1.7e9 + k, step, loss) for k, (step, loss) in enumerate(NUMBERS)]
    (tmp_path / name).write_text(table(("Wall time", "Step", "Value"), rows, ","))
    log = load(tmp_path / name)
    found = log.metrics["val_loss"][1] if column == "val_loss" else getattr(log, column)
    assert np.allclose(found, LOSS, atol=1e-6)
    assert log.step.tolist() == list(range(0, 2000, 10))
    if column == "loss":
        assert [f.cause.value for f in diagnose(tmp_path / name)] == ["loss_explosion"]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "", "it is empty"),
        ("a.csv", "step,loss\n", "no line of names with rows"),
        ("a.csv", "1,0.5\n2,0.4\n", "expected the names of the columns"),
        ("a.csv", "step,loss\n1,0,25\n", "row 2 holds more than 2 values: .* another separator"),
        (
            "a.csv",
            "step,accuracy,note\n1,0.5,good\n",
            "found accuracy, and without numbers 'note'. Name the column of the loss one of loss, train_loss",
        ),
        ("a.csv", "a,b\nx,y\n", "found nothing, and without numbers 'a', 'b'"),
        ("a.jsonl", "[1]\n[2]\n", "line 1 is list: expected one JSON object per line"),
        ("a.jsonl", '{"step": 1, "loss": 1.0}\n{oops}\n', "line 2 is no JSON"),
        ("a.jsonl", "", "is empty"),
        ("a.json", "[]", "holds no record"),
        ("a.json", '{"log_history": []}', "holds no record"),
        ("a.json", '"text"', "expected log_history"),
        ("a.log", "epoch 1: loss 0.5\nepoch 2: loss 0.4\n", "holds no loss"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(RunLogError, match=words):
        diagnose(tmp_path / name)


def test_a_file_in_another_encoding(tmp_path):
    (tmp_path / "a.csv").write_bytes("step,loss\n1,2.0\n".encode("utf-16"))
    with pytest.raises(RunLogError, match="UTF-8"):
        load(tmp_path / "a.csv")


def test_names_of_other_tools_and_records_within_records(tmp_path):
    records = [
        {"step": k, "train": {"loss": 1.0 / (k + 1)}, "Loss/valid": 2.0, "lr-Adam": 0.1} for k in range(9)
    ]
    (tmp_path / "log.txt").write_text("\n".join(map(json.dumps, records)))
    log = load(tmp_path / "log.txt")
    assert log.loss[-1] == pytest.approx(1 / 9)
    assert log.metrics["val_loss"][1].tolist() == [2.0] * 9
    assert log.lr.tolist() == [0.1] * 9
    with pytest.raises(TypeError, match="record 0 is int"):
        from_rows([1])
    with pytest.raises(TypeError, match="got list: expected a RunLog"):
        diagnose([1.0])


@pytest.mark.parametrize("losses", [[], [1.0], [float("nan")], [float("nan")] * 50, [0.0] * 50, [-1e30] * 50])
def test_the_shortest_and_the_strangest_logs_are_diagnosed(losses, tmp_path):
    (tmp_path / "log.jsonl").write_text("".join(json.dumps({"loss": x}) + "\n" for x in losses))
    if losses:
        causes = [f.cause.value for f in diagnose(tmp_path)]
        assert ("loss_nan" in causes) == bool(np.isnan(losses).any())


def test_what_is_no_path_or_log_is_named(tmp_path):
    with pytest.raises(TypeError, match="got NoneType: expected the path"):
        load(None)
    with pytest.raises(TypeError, match="got list: expected a RunLog"):
        certificate([1.0])
    with pytest.raises(
        RunLogError, match=r"looked for run\.sqlite, trainer_state\.json, .*, and for one \.csv"
    ):
        load(tmp_path)
    for given in (1.0, "1.0", None.__class__):
        with pytest.raises(ValueError, match="expected one number per step"):
            RunLog.from_arrays(loss=given)
