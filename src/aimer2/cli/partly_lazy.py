"""A group some of whose commands are files of their own, imported when they are called."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, final

import click


@final
class PartlyLazy(click.Group):
    """``lazy``: name → `module:attribute`."""

    def __init__(self, *given: Any, lazy: Mapping[str, str], **named: Any) -> None:
        super().__init__(*given, **named)
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *self._lazy]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._lazy:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self._lazy[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command
