"""Diagnose: from a run log, what is wrong, where, how sure, and what to change. Nothing when nothing is."""

from trimtab.diagnose.engine import diagnose as diagnose
from trimtab.diagnose.live import Diagnose as Diagnose
