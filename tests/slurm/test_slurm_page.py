"""The page of real sweeps on a real Slurm (slurm/mini), read in a real browser while the cells move."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from slurm.mini.cluster import MiniSlurm
from tests.browser import browser, needs_browser
from tests.slurm.slurm_cluster import Sweep, start_cluster, wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm"), needs_browser]
LONG = 1_000_000  # vector steps: never over within a test


@pytest.fixture(scope="module")
def cluster() -> Iterator[MiniSlurm]:
    with start_cluster() as cluster:
        yield cluster


def test_states_change_on_the_page_as_on_the_disk(cluster: MiniSlurm, tmp_path: Path) -> None:
    """Waiting and running cells, one that fails, and all of them cancelled, in one window that stays open."""
    sweep = Sweep(cluster, tmp_path / "sweep", cells=4, steps=LONG, profile={"max_running": 2})
    sweep.launch()
    sweep.wait_for_step(40, cells=2)
    with browser(tmp_path / "profile") as window:

        def shown() -> dict[str, int]:
            """The states that a reader sees, after the page was written anew."""
            sweep.command("page", "tiny")
            window.open((sweep.place / "page" / "index.html").as_uri())
            counts = [text.split() for text in window.texts(".states li")]
            return {state: int(count) for count, state in counts}

        assert shown() == {"running": 2, "pending": 2}
        node = sweep.beats()[0]["host"]
        assert any(node in text for text in window.texts(".list td"))
        sweep.command("cancel", "tiny")
        sweep.wait_until_idle()
        assert shown() == {"cancelled": 4}
        assert any("--cancelled" in text for text in window.texts(".next code"))
        assert window.complaints() == []


def test_a_failed_cell_says_why(cluster: MiniSlurm, tmp_path: Path) -> None:
    sweep = Sweep(cluster, tmp_path / "sweep", steps=LONG)
    sweep.launch()
    sweep.wait_for_step(40)
    run_file = sweep.directory() / "run.h5"
    run_file.unlink()
    run_file.mkdir()  # the next evaluation cannot write to it
    sweep.slurm("scancel", "--full", "--signal=TERM", *[str(sweep.beats()[0]["job"])])
    wait_until(lambda: bool(list(sweep.place.glob("cells/*/FAILED.json"))), what=sweep.output)
    sweep.command("page", "tiny")
    with browser(tmp_path / "profile") as window:
        window.open((sweep.place / "page" / "index.html").as_uri())
        assert "1 failed" in window.texts("details summary")[0]
        assert window.texts("pre")[0]
