"""Runs a training script that knows nothing of trimtab, with a guard on every optimizer it makes."""

from trimtab.running.grammar import clip_from_text as clip_from_text
from trimtab.running.grammar import cooldown_from_text as cooldown_from_text
from trimtab.running.grammar import describe as describe
from trimtab.running.grammar import detector_from_text as detector_from_text
from trimtab.running.grammar import policies_from_text as policies_from_text
from trimtab.running.grammar import remedy_from_text as remedy_from_text
from trimtab.running.grammar import snapshots_from_text as snapshots_from_text
from trimtab.running.script import InterruptedScript as InterruptedScript
from trimtab.running.script import MissingScriptError as MissingScriptError
from trimtab.running.script import run_script as run_script
from trimtab.running.tally import Tally as Tally
from trimtab.running.tally import sentence as sentence
from trimtab.running.watch import Policies as Policies
from trimtab.running.watch import Watch as Watch

__all__ = [
    "InterruptedScript",
    "MissingScriptError",
    "Policies",
    "Tally",
    "Watch",
    "clip_from_text",
    "cooldown_from_text",
    "describe",
    "detector_from_text",
    "policies_from_text",
    "remedy_from_text",
    "run_script",
    "sentence",
    "snapshots_from_text",
]
