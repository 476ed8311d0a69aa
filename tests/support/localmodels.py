"""A service of models without a server."""

from __future__ import annotations

from collections.abc import Mapping

from mkhspc.errors import MkhspcError
from mkhspc.models.service import Message, Model


class LocalModels:
    """Models in this process."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        self._models = models

    def ask(self, model: str, request: Message) -> Message:
        (answer,) = self._models[model].run([request])
        if isinstance(answer, MkhspcError):
            raise answer
        return answer
