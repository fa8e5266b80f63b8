"""Run a plugin from the bytes that were hashed, and say where in it something went wrong."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from loba_tui.core.errors import LobaError, RecipeError
from loba_tui.core.plugins.options import OPTIONS_PARAMETER
from loba_tui.core.plugins.user import PluginFile
from loba_tui.core.text import clean

# Packages whose name for import is not the name that installs them.
_INSTALLED_AS: Mapping[str, str] = MappingProxyType(
    {
        "PIL": "pillow",
        "cv2": "opencv-python",
        "skimage": "scikit-image",
        "sklearn": "scikit-learn",
        "yaml": "pyyaml",
    }
)


def load_factory(file: PluginFile, factory_name: str) -> Callable[..., Any]:
    """Run a plugin's source and return its factory; the caller has checked that it is trusted.

    Raises:
        RecipeError: The file does not run, or defines no such factory. What the factory itself
            raises later is turned into one as well.
    """
    module = _run(file)
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        raise RecipeError(f"{clean(file.path)}: a file of {file.kind} must define {factory_name}()")
    line = getattr(getattr(factory, "__code__", None), "co_firstlineno", 1)

    @functools.wraps(factory)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        with _explained(file.path, line):
            return factory(*args, **kwargs)

    return guarded


def taking_options(factory: Callable[..., Any], class_name: str) -> Callable[..., Any]:
    """Return a factory that makes the dataclass of its options from keyword arguments."""
    if not class_name:
        return factory
    options_class = inspect.unwrap(factory).__globals__[class_name]
    own = inspect.signature(options_class).parameters

    @functools.wraps(factory)
    def make(*args: Any, **given: Any) -> Any:
        options = options_class(**{name: given.pop(name) for name in list(given) if name in own})
        return factory(*args, **given, **{OPTIONS_PARAMETER: options})

    taken = inspect.signature(factory)
    others = [each for each in taken.parameters.values() if each.name != OPTIONS_PARAMETER]
    shown = sorted([*others, *own.values()], key=lambda each: each.kind)
    make.__dict__["__signature__"] = taken.replace(parameters=shown)
    return make


def as_plugin_error(error: BaseException, folder: Path | None) -> RecipeError | None:
    """Return an error in the words of the plugin that raised it, or None if no plugin did.

    What a factory returned is called long after it was loaded: such an error is the plugin's too.
    `folder` is where the user's plugins lie.
    """
    if folder is None:
        return None
    found = [(path, line) for path, line in _frames(error) if path.is_relative_to(folder)]
    return _explain(error, *found[-1]) if found else None


def _run(file: PluginFile) -> ModuleType:
    name = f"loba_plugins.{file.kind}.{file.name}"
    source = (str(file.path), file.sha256)
    known = sys.modules.get(name)
    # A second use of the same file is the same module, as with an import.
    if known is not None and getattr(known, "__loba_source__", None) == source:
        return known
    module = ModuleType(name)
    module.__file__ = str(file.path)
    module.__dict__["__loba_source__"] = source
    # Dataclasses and type hints look their module up by name.
    sys.modules[name] = module
    try:
        with _explained(file.path, 1):
            exec(compile(file.content, str(file.path), "exec", dont_inherit=True), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def _explained(path: Path, line: int) -> Iterator[None]:
    """Turn what a plugin raises into an error with its file and line; ours pass as they are."""
    try:
        yield
    except LobaError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            raise  # the machine's doing; the program has its own words for that
        inside = [number for frame_path, number in _frames(error) if frame_path == path]
        raise _explain(error, path, [line, *inside][-1]) from error


def _frames(error: BaseException) -> Iterator[tuple[Path, int]]:
    for frame, line in traceback.walk_tb(error.__traceback__):
        yield Path(frame.f_code.co_filename), line


def _explain(error: BaseException, path: Path, line: int) -> RecipeError:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return _missing_package(error.name, path, line)
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return RecipeError(f"{clean(path)}:{error.lineno or 1}: not Python: {clean(error.msg)}")
    if isinstance(error, SystemExit):
        return RecipeError(f"{clean(path)}:{line}: it ends the program; a plugin must not")
    what = f"{type(error).__name__}: {clean(error, limit=500)}"
    return RecipeError(f"{clean(path)}:{line}: {what}", "The plugin raised it.")


def _missing_package(name: str, path: Path, line: int) -> RecipeError:
    package = name.partition(".")[0]
    where = f"{clean(path)}:{line}"
    if (path.parent / f"{package}.py").exists():
        return RecipeError(
            f"{where}: {clean(package)}.py beside it cannot be imported",
            "A plugin is one file, because it is trusted as one: put what it needs into it.",
        )
    if package != name and importlib.util.find_spec(package) is not None:
        return RecipeError(
            f"{where}: the installed {clean(package)} has no module {clean(name)}",
            "It may be of another version than the plugin is made for.",
        )
    install = _INSTALLED_AS.get(package, package)
    return RecipeError(
        f"{where}: it needs the package {clean(package)}, which is not installed",
        f"Install it into this environment: python -m pip install {clean(install)}",
    )
