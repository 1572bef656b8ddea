"""Where `trimtab` and `python -m trimtab` start: it sees to it that the command line can be loaded."""

from __future__ import annotations

import sys

from trimtab.errors import MissingDependencyError


def main() -> None:
    """Run the command line."""
    try:
        import rich
        import typer
    except ImportError as error:
        needed = MissingDependencyError(str(error.name), extra="cli", purpose="The command line")
        sys.exit(f"trimtab: {needed}")
    del rich, typer
    from trimtab.cli import app
    from trimtab.running import InterruptedScript

    try:
        app()
    except InterruptedScript:
        sys.excepthook = lambda *_: None  # its traceback has been shown
        raise KeyboardInterrupt from None  # Python ends itself by the signal, as it does for any script


if __name__ == "__main__":
    main()
