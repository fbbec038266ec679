"""An episode as a moving picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mtrl.envs.step_buffers import Array
from mtrl.envs.vector_env import VectorEnv

_STEPS_PER_SECOND = 80  # of Meta-World's simulated time


def record_video(
    env: VectorEnv, policy: Callable[[Array], Array], path: Path, *, row: int = 0, every: int = 4
) -> int:
    """Writes an episode of row `row` to `path` (.gif, .webp or .png) and returns the number of pictures.

    `policy` takes observations [T, 39] and gives actions [T, 4]. Every `every`-th step is drawn; the picture plays in
    simulated time. Resets the env. Raises RuntimeError, with the cure, if this machine cannot draw.
    """
    from PIL import Image  # comes with matplotlib

    observation, _ = env.reset()
    frames, step, ended = [env.render([row])[0]], 0, False
    while not ended:
        observation, _, terminated, truncated, _ = env.step(policy(observation))
        step, ended = step + 1, bool(terminated[row] or truncated[row])
        if step % every == 0 and not ended:  # after the end the env already shows the next episode
            frames.append(env.render([row])[0])
    first, *rest = map(Image.fromarray, frames)
    first.save(path, save_all=True, append_images=rest, duration=1000 * every / _STEPS_PER_SECOND, loop=0)
    return len(frames)
