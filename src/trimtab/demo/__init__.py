"""Two small real training runs in which things go wrong: what `trimtab demo` shows.

`run_demo("text", out)` trains a decoder-only language model on the sources of Python's standard
library, `run_demo("digits", out)` a vision transformer on scikit-learn's digits; each twice from one
seed, unguarded and guarded. Three troubles await them: what the data holds by itself (empty
documents, digits shifted out of the picture), a data worker that hands over uninitialised memory,
and a stretch with a far too large learning rate. Nothing tells the guard where.
"""

from trimtab.demo.compare import DemoResult as DemoResult
from trimtab.demo.compare import compare as compare
from trimtab.demo.compare import run_demo as run_demo
from trimtab.demo.language import LanguageSize as LanguageSize
from trimtab.demo.language import LanguageTask as LanguageTask
from trimtab.demo.language import language_task as language_task
from trimtab.demo.train import Progress as Progress
from trimtab.demo.train import Recipe as Recipe
from trimtab.demo.train import Result as Result
from trimtab.demo.train import Score as Score
from trimtab.demo.train import Task as Task
from trimtab.demo.train import train as train
from trimtab.demo.vision import VisionSize as VisionSize
from trimtab.demo.vision import VisionTask as VisionTask
from trimtab.demo.vision import vision_task as vision_task

__all__ = [
    "DemoResult",
    "LanguageSize",
    "LanguageTask",
    "Progress",
    "Recipe",
    "Result",
    "Score",
    "Task",
    "VisionSize",
    "VisionTask",
    "compare",
    "language_task",
    "run_demo",
    "train",
    "vision_task",
]
