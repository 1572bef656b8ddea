"""Report: pure functions of a run log. Figures, one HTML page, a terminal summary, a story in words."""

from trimtab.report.html import report as report
from trimtab.report.story import ClippingEpisode as ClippingEpisode
from trimtab.report.story import Episode as Episode
from trimtab.report.story import FaultEpisode as FaultEpisode
from trimtab.report.story import LearningRateEpisode as LearningRateEpisode
from trimtab.report.story import episodes as episodes
from trimtab.report.story import sentence as sentence
from trimtab.report.terminal import summary as summary

__all__ = [
    "report",
    "summary",
    "episodes",
    "sentence",
    "Episode",
    "FaultEpisode",
    "ClippingEpisode",
    "LearningRateEpisode",
]
