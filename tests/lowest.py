"""Prints pip constraints: the lowest version that pyproject.toml allows of each package; for `make test-lowest`."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KEPT = ("mujoco==", "gymnasium==")  # as constraints.txt has them; pip chooses all others


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    requirements = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    print("\n".join(requirement.replace(">=", "==") for requirement in requirements if ">=" in requirement))
    print(
        "\n".join(
            re.findall(f"^(?:{'|'.join(KEPT)}).*", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
        )
    )


if __name__ == "__main__":
    main()
