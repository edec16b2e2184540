"""InvokeAI, remembered: what a server told that is worth asking only once."""

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Model:
    """A main model. `steps`, `cfg_scale`, `scheduler`: what its owner set it to in InvokeAI, where that is anything."""

    key: str
    hash: str
    name: str
    base: str
    variant: str = "normal"
    steps: int | None = None
    cfg_scale: float | None = None
    scheduler: str | None = None

    def identifier(self) -> Mapping[str, str]:
        """Itself as a graph names it (InvokeAI's ModelIdentifierField)."""
        return {"key": self.key, "hash": self.hash, "name": self.name, "base": self.base, "type": "main"}


@dataclass(slots=True)
class Memory:
    """One server's. `token`: of the last login, None before one was needed; `models_until`: on trio's clock."""

    token: str | None = None
    models: tuple[Model, ...] = ()
    models_until: float = -math.inf
