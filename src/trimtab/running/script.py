"""Executes a script or a module as Python itself would, with every optimizer guarded."""

from __future__ import annotations

import atexit
import builtins
import importlib.util
import io
import logging
import os
import pkgutil
import sys
import zipfile
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType, TracebackType

from trimtab.errors import TrimtabError
from trimtab.running.tally import Tally
from trimtab.running.watch import Policies, Watch, rank

_OWN_FOLDER = str(Path(__file__).parent)


class MissingScriptError(TrimtabError):
    """There is no such script or module, or it cannot be read."""


class InterruptedScript(BaseException):
    """The script was left by `KeyboardInterrupt`, whose traceback has been shown."""


def run_script(
    target: str,
    arguments: Sequence[str],
    policies: Policies,
    *,
    is_module: bool = False,
    on_end: Callable[[Sequence[Tally]], None],
) -> None:
    """Run a script as `__main__` of this process, with a guard on every optimizer that steps.

    The script gets `sys.argv`, `sys.path[0]` and a `__main__` of its own, as if Python had been called
    with it. Does not return if the script is left by an exception: that is shown as Python shows it,
    without frames of this package above the script's.

    Args:
        target: Path of a script, folder or zip file, or the name of a module.
        arguments: What follows it on the command line.
        policies: What every guard gets.
        is_module: Whether `target` is the name of a module, as with `python -m`.
        on_end: Called in this process when the interpreter exits, with what came of each optimizer; of
            several ranks only in the first.

    Raises:
        MissingScriptError: There is no such script or module.
        RunLogError: The folder of the run log cannot be written.
        SystemExit: The script was left by `sys.exit`, or by an exception that has been shown.
        InterruptedScript: It was left by `KeyboardInterrupt`.
    """
    if not is_module and not os.path.exists(target):
        raise MissingScriptError(
            f"cannot open the script {target}: there is no such file. Give the path of a Python file, or the "
            "name of a module after -m."
        )
    sys.argv[:] = [target, *arguments]
    sys.excepthook = sys.__excepthook__
    with _AsPython():  # the packages of a module are imported to find it
        code, main = _from_module(target) if is_module else _from_path(target)
    watch = Watch(policies)
    watch.open()
    if rank() != 0:
        # all ranks decide alike: the first one speaks for them, unless the script has its own handlers
        logging.getLogger("trimtab").addHandler(logging.NullHandler())
    # at exit and not at its last line: threads of the script may still be training then
    atexit.register(_end, watch, on_end, os.getpid(), sys.modules["__main__"])
    with _AsPython():
        sys.modules["__main__"] = main
        exec(code, vars(main))


class _AsPython:
    """Shows an exception that leaves this context as Python would have, and ends as it would have."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is None or isinstance(error, (SystemExit, MissingScriptError)):
            return
        _show(error)
        if isinstance(error, KeyboardInterrupt):
            raise InterruptedScript from None
        raise SystemExit(1) from None


def _end(watch: Watch, on_end: Callable[[Sequence[Tally]], None], process: int, own_main: ModuleType) -> None:
    """Take everything back; `own_main` is held until here, or its globals would be gone."""
    del own_main
    watch.close()
    if os.getpid() == process and rank() == 0:
        on_end(watch.tallies)


def _show(error: BaseException) -> None:
    """Show an exception as Python would have."""
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        each = todo.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        each.__traceback__ = _without_own_frames(each.__traceback__)
        todo += [each.__cause__, each.__context__]
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, error.__traceback__
    if sys.version_info >= (3, 12):
        sys.last_exc = error
    sys.excepthook(type(error), error, error.__traceback__)


def _without_own_frames(traceback: TracebackType | None) -> TracebackType | None:
    """The traceback without the frames that only pass through this package."""
    frames = []
    while traceback is not None:
        if not traceback.tb_frame.f_code.co_filename.startswith(_OWN_FOLDER):
            frames.append(traceback)
        traceback = traceback.tb_next
    kept: TracebackType | None = None
    for each in reversed(frames):
        kept = TracebackType(kept, each.tb_frame, each.tb_lasti, each.tb_lineno)
    return kept


def _from_path(path: str) -> tuple[CodeType, ModuleType]:
    """Code and empty `__main__` of a script, or of a folder or zip file that holds a `__main__.py`."""
    if os.path.isdir(path) or zipfile.is_zipfile(path):
        _set_first_path(path)
        importer = pkgutil.get_importer(path)
        spec = None if importer is None else importer.find_spec("__main__")
        if spec is None:
            raise MissingScriptError(f"{path} holds no __main__.py: there is nothing to run in it.")
        return _from_spec(spec)
    absolute = os.path.abspath(path)
    try:
        with io.open_code(absolute) as file:
            source = file.read()
    except OSError as error:
        raise MissingScriptError(f"cannot read the script {path} ({error.strerror}).") from error
    _set_first_path(os.path.dirname(os.path.realpath(path)))
    main = _new_main(file=absolute)
    main.__loader__ = SourceFileLoader("__main__", absolute)
    return _compiled(source, absolute), main


def _from_module(name: str) -> tuple[CodeType, ModuleType]:
    """Code and empty `__main__` of a module, or of the `__main__` of a package."""
    _set_first_path(os.getcwd())
    spec = _spec_of(name)
    if spec is not None and spec.submodule_search_locations is not None:
        spec = _spec_of(f"{name}.__main__")
    if spec is None:
        raise MissingScriptError(
            f"there is no module named {name} that can be run. Give its dotted name as with python -m; a "
            "package needs a __main__.py."
        )
    code, main = _from_spec(spec)
    sys.argv[0] = str(spec.origin)
    return code, main


def _spec_of(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            return None
        raise  # a package above it misses something else


def _from_spec(spec: ModuleSpec) -> tuple[CodeType, ModuleType]:
    get_code = getattr(spec.loader, "get_code", None)
    code = None if get_code is None else get_code(spec.name)
    if code is None:
        raise MissingScriptError(f"{spec.name} ({spec.origin}) has no Python code to run.")
    main = _new_main(file=spec.origin)
    main.__loader__, main.__spec__, main.__package__ = spec.loader, spec, spec.parent
    vars(main)["__cached__"] = spec.cached
    return code, main


def _new_main(*, file: str | None) -> ModuleType:
    main = ModuleType("__main__")
    main.__file__ = file
    # as in Python's own: without them exec() would add another kind of builtins
    vars(main).update(__builtins__=builtins, __annotations__={}, __cached__=None)
    return main


def _compiled(source: bytes, path: str) -> CodeType:
    return compile(source, path, "exec", dont_inherit=True)


def _set_first_path(path: str) -> None:
    """Where the script imports from first, in the place of where this command was found."""
    if not (getattr(sys.flags, "safe_path", False) or sys.flags.isolated):
        sys.path[0] = path
