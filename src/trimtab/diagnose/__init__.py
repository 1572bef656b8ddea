"""Diagnose: from a run log, what is wrong, where, how sure, and what to change. Nothing when nothing is."""

from trimtab.diagnose.certificate import Certificate as Certificate
from trimtab.diagnose.certificate import as_facts as as_facts
from trimtab.diagnose.certificate import certificate as certificate
from trimtab.diagnose.engine import clues as clues
from trimtab.diagnose.engine import diagnose as diagnose
from trimtab.diagnose.importing import from_rows as from_rows
from trimtab.diagnose.importing import load as load
from trimtab.diagnose.live import Diagnose as Diagnose
from trimtab.diagnose.rules import RULES as RULES

__all__ = [
    "RULES",
    "Certificate",
    "Diagnose",
    "as_facts",
    "certificate",
    "clues",
    "diagnose",
    "from_rows",
    "load",
]
