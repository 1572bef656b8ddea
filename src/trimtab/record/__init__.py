"""Record what happened: the crash-safe run log, its reader and its exports."""

from trimtab.record.header import RunHeader as RunHeader
from trimtab.record.header import versions as versions
from trimtab.record.log import FaultEvent as FaultEvent
from trimtab.record.log import OriginEvent as OriginEvent
from trimtab.record.log import RunLog as RunLog
from trimtab.record.reader import read as read
from trimtab.record.reader import read_every_row as read_every_row
from trimtab.record.score import SpikeScore as SpikeScore
from trimtab.record.score import WindowedScore as WindowedScore
from trimtab.record.score import spike_score as spike_score
from trimtab.record.score import windowed_score as windowed_score
from trimtab.record.signals import Sample as Sample
from trimtab.record.signals import Signal as Signal
from trimtab.record.signals import joined as joined
from trimtab.record.writer import RunWriter as RunWriter

__all__ = [
    "RunHeader",
    "versions",
    "RunWriter",
    "FaultEvent",
    "OriginEvent",
    "RunLog",
    "read",
    "read_every_row",
    "Signal",
    "Sample",
    "joined",
    "SpikeScore",
    "WindowedScore",
    "spike_score",
    "windowed_score",
]
