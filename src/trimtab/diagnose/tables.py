"""Tables as text: CSV and its kin, whatever separates their columns and their decimals."""

from __future__ import annotations

import csv
import re
from typing import Any

_DELIMITERS = (",", ";", "\t", "|")
# 0,25 and 1.234,5: only where a comma does not separate columns
_DECIMAL_COMMA = re.compile(r"[+-]?(?:\d{1,3}(?:\.\d{3})+|\d*),\d+(?:[eE][+-]?\d+)?")
# What TensorBoard writes for one curve
_ONE_CURVE = {"wall time", "step", "value"}


def records(text: str, curve: str = "loss") -> list[dict[str, Any]]:
    r"""The rows of a table with a line of names at its head.

    Columns are separated by what stands most often in that line of comma, semicolon, tab and bar. Decimals
    may have a comma unless that separates the columns. A table of TensorBoard, which has the columns
    "Wall time", "Step" and "Value", does not say what its values are.

    Args:
        text: All of it.
        curve: What the values of a table of TensorBoard are.

    Returns:
        Name to text of each row.

    Raises:
        ValueError: It has no rows, or no names, or rows with more numbers than names.

    Example:
        >>> records("step;loss\n1;0,25\n")
        [{'step': '1', 'loss': '0.25'}]
        >>> records("Wall time,Step,Value\n1.7e9,10,2.5\n", "val_loss")
        [{'step': '10', 'val_loss': '2.5'}]
    """
    lines = text.removeprefix("\ufeff").strip("\r\n").splitlines()
    if len(lines) < 2:
        raise ValueError("it holds no line of names with rows below it" if lines else "it is empty")
    head = lines[0].lstrip("# ")  # as numpy.savetxt marks it
    delimiter = max(_DELIMITERS, key=head.count)
    if delimiter not in head:
        delimiter = ";"  # one column: a comma in it is a decimal one
    rows: list[dict[Any, Any]] = list(
        csv.DictReader([head, *lines[1:]], delimiter=delimiter, skipinitialspace=True)
    )
    if all(_is_number(name) for name in rows[0] if name):
        raise ValueError(
            f"its first line is {lines[0]!r}: expected the names of the columns, such as step,loss"
        )
    for number, row in enumerate(rows, 2):
        if any(row.pop(None, ())):
            raise ValueError(
                f"row {number} holds more than {len(rows[0])} values: expected one for each of "
                f"{head!r}. Decimals with a comma need another separator, such as a semicolon"
            )
    if delimiter != ",":
        rows = [{name: _with_point(value) for name, value in row.items()} for row in rows]
    if {name.strip().lower() for name in rows[0] if name} == _ONE_CURVE:
        names = {name.strip().lower(): name for name in rows[0]}
        return [{"step": row[names["step"]], curve: row[names["value"]]} for row in rows]
    return rows


def _with_point(value: Any) -> Any:
    if isinstance(value, str) and _DECIMAL_COMMA.fullmatch(value.strip()):
        return value.replace(".", "").replace(",", ".")
    return value


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True
