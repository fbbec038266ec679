"""The data that restore the envs of a dead worker: their state some steps ago and the actions since."""

from __future__ import annotations

from typing import Any

import numpy as np

from mtrl.envs.step_buffers import Array

_STEPS = 500  # at most between two saved states: repeating them takes about as long as an episode


class Recovery:
    """A saved state and the actions since, for a vector env whose workers may be replaced `restarts` times."""

    def __init__(self, restarts: int) -> None:
        self._left = restarts
        self._states: dict[int, dict[str, Any]] = {}
        self._actions: list[Array] = []

    def possible(self) -> bool:
        """Whether another worker may be replaced."""
        return self._left > 0

    def begin(self, states: dict[int, dict[str, Any]]) -> None:
        """Saves the states of all rows ({row: state}) instead of the earlier ones, and drops the actions."""
        self._states, self._actions = states, []

    def remember(self, actions: Array) -> bool:
        """Adds the actions [T, 4] of a finished step. True when it is time to save the states again (`begin`)."""
        if self.possible():
            self._actions.append(actions.copy())
        return len(self._actions) >= _STEPS

    def take(self, actions: Array) -> tuple[dict[int, dict[str, Any]], Array]:
        """The saved states and the actions [n, T, 4] since then. Uses up one restart.

        `actions` [T, 4], those of the current step, come last.
        """
        self._left -= 1
        return self._states, np.array([*self._actions, actions])
