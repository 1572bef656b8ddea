"""Logs of other tools."""

from __future__ import annotations

import csv
import json
import struct
from pathlib import Path

import numpy as np
import pytest

from trimtab.diagnose import diagnose, load
from trimtab.errors import RunLogError

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
