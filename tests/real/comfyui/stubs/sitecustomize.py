"""Answers `import torchvision` and `import torchaudio` with modules that do nothing: a quarter of a gigabyte less.

Python imports this by its name when it starts. ComfyUI looks at the two while it is imported; whatever really calls one
fails loudly.
"""

import importlib.abc
import importlib.machinery
import sys
import types

NAMES = frozenset({"torchvision", "torchaudio"})


class Stub(types.ModuleType):
    """A module that has every name."""

    __path__ = ()
    __version__ = "0.0.0"

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def refuse(*_args, **_options):
            raise RuntimeError(f"{self.__name__}.{name} is not there: this ComfyUI is for tests")

        return type(name, (), {"__init__": refuse})


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the two and whatever is below them."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] not in NAMES:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec):
        return Stub(spec.name)

    def exec_module(self, module):
        """It is complete as it is."""


sys.meta_path.insert(0, Finder())
