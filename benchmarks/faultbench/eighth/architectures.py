"""The healthy runs of the eighth suite, by architecture: each with settings under which it trains well."""

from __future__ import annotations

from settings import Build

from eighth import architectures_codes as codes
from eighth import architectures_layers as layers
from eighth import architectures_pictures as pictures
from eighth import architectures_sequences as sequences
from eighth import architectures_tables as tables
from eighth import architectures_worlds as worlds

# name -> optimizer -> setup of a seed
RUNS: dict[str, dict[str, Build]] = {
    **tables.RUNS,
    **pictures.RUNS,
    **sequences.RUNS,
    **codes.RUNS,
    **layers.RUNS,
    **worlds.RUNS,
}
NAMES = tuple(RUNS)
