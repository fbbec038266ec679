"""The page of a sweep: what it tells is what the files say, whatever stands in them."""

import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mtrl.sizing import count_parameters
from slurm.state import cell_directory, write_cancelled, write_done, write_json
from slurm.worker import hold_cell
from sweeps.grid import expand, load_grid, override
from sweeps.launch import main
from sweeps.manifest import Entry, add_cells, open_sweep_folder, read_manifest, record_launch
from sweeps.page import charts
from sweeps.page.charts import law as drawing
from sweeps.page.charts import learning_curves
from sweeps.page.facts import Facts, clean, end_of_log, read_facts
from sweeps.page.law import interval_words, laws, ticks
from sweeps.page.serve import serve
from sweeps.page.write import render, write_page
from sweeps.time_left import seconds_left
from sweeps.units import duration
from sweeps.watch import look
from tests.analysis.reference_analysis import write_run
from tests.browser import browser, needs_browser

NOW = 1_790_000_000.0
CHOOSE_FAILED = """
const labels = [...document.querySelectorAll('.filters label')];
const select = labels.find(label => label.textContent.startsWith('state')).querySelector('select');
select.value = 'failed';
select.dispatchEvent(new Event('change'));
"""
EVIL = '<script>document.title="taken"</script>"\'><img src=x onerror=alert(1)>&amp;\x1b[31m\x00\u202e'


def make_sweep(folder: Path, *words: str) -> list[Entry]:
    settings = ["~network.critic.width", "env.tasks=reach-v3,push-v3", "network.actor.width=16,32",
                "train.seed=range(3)", "train.vector_steps=2000", "evaluate.every=500"]  # fmt: skip
    open_sweep_folder(folder)
    return add_cells(folder, expand(override(load_grid("scaling"), [*settings, *words])))


def run_file(sweep: Path, entry: Entry, success: Sequence[float]) -> Path:
    return write_run(cell_directory(sweep, entry.run_id) / "run.h5", entry.cell.config, success=success)


def finish(sweep: Path, entry: Entry, success: Sequence[float], seconds: float = 3600.0) -> None:
    run_file(sweep, entry, success)
    write_done(
        cell_directory(sweep, entry.run_id), entry.run_id, "done", seconds=seconds, attempts=1, job=None
    )


def beat(sweep: Path, entry: Entry, **facts: Any) -> None:
    directory = cell_directory(sweep, entry.run_id)
    directory.mkdir(parents=True, exist_ok=True)
    known = {"run_id": entry.run_id, "host": "node7", "pid": 1, "state": "running", "vector_step": 500,
             "vector_steps": 2000, "started": NOW - 1800, "time": time.time()}  # fmt: skip
    write_json(directory / "heartbeat.json", known | facts)


def fail(sweep: Path, entry: Entry, error: str, log: bytes = b"") -> None:
    beat(sweep, entry, state="failed")
    directory = cell_directory(sweep, entry.run_id)
    write_json(directory / "FAILED.json", {"run_id": entry.run_id, "error": error, "attempts": 1})
    (directory / "log.txt").write_bytes(log)


def facts_of(sweep: Path, now: float = NOW) -> Facts:
    entries = read_manifest(sweep)
    return read_facts(sweep, entries, look(sweep, entries), now)


class Elements(HTMLParser):
    """The elements of a page, and all its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_facts_are_what_the_files_say(tmp_path: Path) -> None:
    entries = make_sweep(tmp_path)
    for entry in entries[:4]:
        finish(tmp_path, entry, [0.1, 0.2, 0.3, 0.5])
    run_file(tmp_path, entries[4], [0.1])
    beat(tmp_path, entries[4])
    fail(tmp_path, entries[5], "RuntimeError: no space", b"one\ntwo\n")
    fail(tmp_path, entries[6], "RuntimeError: no space")
    fail(tmp_path, entries[7], "ValueError: other")
    facts = facts_of(tmp_path)
    assert facts.counts == {"running": 1, "failed": 3, "missing": 4, "done": 4}
    assert [(len(one.rows), one.reason) for one in facts.troubles] == [
        (2, "RuntimeError: no space"),
        (1, "ValueError: other"),
    ]
    assert facts.troubles[0].log == "one\ntwo"
    assert facts.rows[0].curve == pytest.approx((0.1, 0.2, 0.3, 0.5), abs=0.001)
    assert facts.rows[4].curve == pytest.approx((0.1,), abs=0.001)
    assert facts.rows[4].progress == 0.25
    assert facts.rows[4].node == "node7"
    assert facts.random == {"reach-v3": pytest.approx(0.2)}
    legends = [chart.partition("</svg>")[2] for _, chart in learning_curves(facts)]
    assert [legend.count("random policy") for legend in legends] == [1]
    assert [(node.name, node.running, node.failed) for node in facts.nodes] == [("node7", 1, 3)]
    assert facts.hours[0] >= 4.0  # hours of the finished ones alone
    assert facts.measured


def test_nodes_stand_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for entry, host in zip(make_sweep(tmp_path), ["node10", "node2", "gpu-1", "node1"], strict=False):
        beat(tmp_path, entry, host=host)
    assert [node.name for node in facts_of(tmp_path).nodes] == ["gpu-1", "node1", "node2", "node10"]


def test_hours_left_follow_the_cells_that_finished(tmp_path: Path) -> None:
    entries = make_sweep(tmp_path, "network.actor.width=16", "env.tasks=reach-v3", "train.seed=range(8)")
    for entry in entries[:6]:
        finish(tmp_path, entry, [0.1, 0.2, 0.3, 0.5], seconds=7200.0)
    beat(tmp_path, entries[6], vector_step=1000)
    facts = facts_of(tmp_path)
    assert facts.hours[2] == pytest.approx(2.0 * 1.5)  # half of one cell, and another
    assert facts.ends is not None
    assert facts.ends[1] - NOW == pytest.approx(3600 * 3.0)  # one at a time


def test_status_says_the_time_left_that_the_page_has(tmp_path: Path) -> None:
    """Of eight cells of two hours four are over, one is at half, one is cancelled and two wait."""
    words = ["network.actor.width=16", "env.tasks=reach-v3", "train.seed=range(8)"]
    entries = make_sweep(tmp_path, *words)
    status = ["status", tmp_path.name, "--runs", str(tmp_path.parent)]
    for entry in entries[:4]:
        finish(tmp_path, entry, [0.1, 0.2, 0.3, 0.5], seconds=7200.0)
    assert " left" not in CliRunner().invoke(main, status).output, "nothing runs"
    beat(tmp_path, entries[4], vector_step=1000)
    with hold_cell(cell_directory(tmp_path, entries[4].run_id)):
        write_cancelled(tmp_path, {entries[5].run_id})
        facts = facts_of(tmp_path)
        said = CliRunner().invoke(main, status).output
        seconds = json.loads(CliRunner().invoke(main, [*status, "--json"]).output)["seconds_left"]
    assert facts.hours[2] == pytest.approx(5.0)
    assert seconds == pytest.approx([3600 * hours for hours in facts.hours[1:]])
    assert f"about 5.0 h left ({duration(seconds[0])} to {duration(seconds[2])})" in said


def test_status_of_a_configuration_that_this_version_cannot_read_has_no_time_left(tmp_path: Path) -> None:
    (entry, *_) = make_sweep(tmp_path)
    beat(tmp_path, entry)
    with hold_cell(cell_directory(tmp_path, entry.run_id)):
        found = look(tmp_path, [entry])
    assert seconds_left(tmp_path, [entry], found)
    assert seconds_left(tmp_path, [replace(entry, config={**entry.config, "later": 1})], found) is None


@pytest.mark.parametrize("words", [["--max-gpu-hours", "5000"], ["--max-gpu-hours=5000", "--yes"]])
def test_the_cap_is_that_of_the_latest_launch_with_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    make_sweep(tmp_path)
    assert facts_of(tmp_path).cap is None
    for command in (["--max-gpu-hours", "1"], words, []):  # the last one as a retry records it
        monkeypatch.setattr("sys.argv", ["launch.py", "grid=smoke", *command])
        record_launch(tmp_path, cells=12)
    facts = facts_of(tmp_path)
    assert facts.cap == 5000.0
    assert "5,000<small>core hours, from the last launch" in render([facts], live=False)


def test_the_law_so_far_is_that_of_the_planted_truth(tmp_path: Path) -> None:
    """Failure planted as .5 N^-.1 over five sizes; of the unfinished runs nothing enters."""
    words = [
        "env.tasks=reach-v3",
        "network.actor.width+network.critic.width=16,32,64,128,256",
        "~network.actor.width",
    ]
    entries = make_sweep(tmp_path, *words)
    for entry in entries[:-1]:
        parameters = count_parameters(entry.cell.config).total
        failure = 0.9 * (parameters / 5_000) ** -0.1 + 0.001 * (entry.cell.config.train.seed - 1)
        finish(tmp_path, entry, [0.0, 0.0, 0.0, 1 - failure])
    run_file(tmp_path, entries[-1], [0.99])
    beat(tmp_path, entries[-1])
    [law] = laws(facts_of(tmp_path))
    assert (law.runs, law.of_runs) == (14, 15)
    assert "from 14 of 15 runs" in law.words
    exponent = float(law.words.split("a = ")[1].split()[0])
    assert exponent == pytest.approx(0.1, abs=0.005)


@pytest.mark.parametrize(("final", "top"), [(0.1, 20), (0.3, 40), (0.5, 100)])
def test_a_chart_of_low_success_ends_where_it_does(tmp_path: Path, final: float, top: int) -> None:
    for entry in make_sweep(tmp_path, "env.tasks=reach-v3"):
        finish(tmp_path, entry, [0.0, 0.1, 0.1, final])
    [(_, chart)] = learning_curves(facts_of(tmp_path))
    assert [int(number) for number in re.findall(r">(\d+) %<", chart)] == [top * at // 4 for at in range(5)]


def test_the_band_of_a_law_stays_in_its_chart(tmp_path: Path) -> None:
    words = ["env.tasks=reach-v3", "network.actor.width=16,32,64,128", "train.seed=0,1"]
    for number, entry in enumerate(make_sweep(tmp_path, *words)):
        finish(tmp_path, entry, [0.0, 0.0, 0.0, 0.3 * (number % 2)])
    [law] = laws(facts_of(tmp_path))
    assert max(over for *_, over in law.line) > 1.05, "a failure that no run can have"
    (band,) = re.findall(r'class="band"[^>]* d="M([^"]+)Z"', drawing(law))
    heights = [float(point.split()[1]) for point in band.split("L")]
    assert min(heights) >= charts.TOP


def test_an_end_of_an_interval_keeps_its_sign() -> None:
    assert interval_words(-0.00031, 0.0852) == "95 % interval -0.00031 to 0.085"
    assert interval_words(-1.234, -0.0) == "95 % interval -1.2 to 0"


def test_a_law_is_fitted_again_once_another_run_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["env.tasks=reach-v3", "network.actor.width=16,32,64,128", "train.seed=0,1"]
    entries = make_sweep(tmp_path, *words)
    for number, entry in enumerate(entries[:-1]):
        finish(tmp_path, entry, [0.0, 0.0, 0.0, 0.1 + 0.1 * number])
    [first] = laws(facts_of(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr("analysis.slopes.slopes", None)
        [kept] = laws(facts_of(tmp_path))
    assert (kept.words, drawing(kept)) == (first.words, drawing(first))
    finish(tmp_path, entries[-1], [0.0, 0.0, 0.0, 0.9])
    assert [law.runs for law in laws(facts_of(tmp_path))] == [8]


def test_too_few_sizes_make_no_law(tmp_path: Path) -> None:
    for entry in make_sweep(tmp_path, "env.tasks=reach-v3"):
        finish(tmp_path, entry, [0.1, 0.2, 0.3, 0.5])
    [law] = laws(facts_of(tmp_path))
    assert law.words == "no law yet from 6 of 6 runs: 2 sizes, 4 needed"
    assert law.line == []


def test_one_seed_of_each_size_makes_no_law(tmp_path: Path) -> None:
    words = ["env.tasks=reach-v3", "network.actor.width=16,32,64,128", "train.seed=0"]
    for number, entry in enumerate(make_sweep(tmp_path, *words)):
        finish(tmp_path, entry, [0.0, 0.0, 0.0, 0.1 + 0.1 * number])
    [law] = laws(facts_of(tmp_path))
    assert law.words == "no law yet from 4 of 4 runs: 1 seed of each size, 2 needed"


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [
        (0.66, 1.05, [0.7, 0.8, 0.9, 1.0]),
        (900, 40_000, [1_000, 2_000, 5_000, 10_000, 20_000]),
        (0.5, 0.50001, [0.5, 0.500002, 0.500004, 0.500006, 0.500008, 0.50001]),
    ],
)
def test_ticks_are_round(low: float, high: float, found: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(found)


def test_a_finished_file_is_read_once_and_a_growing_one_again(tmp_path: Path) -> None:
    entries = make_sweep(tmp_path)
    finish(tmp_path, entries[0], [0.1, 0.2, 0.3, 0.5])
    growing = run_file(tmp_path, entries[1], [0.1])
    beat(tmp_path, entries[1])
    facts_of(tmp_path)
    status = (tmp_path / "cells" / entries[0].run_id / "run.h5").stat()
    done = tmp_path / "cells" / entries[0].run_id / "run.h5"
    done.write_bytes(b"x" * status.st_size)  # would be an error if it were opened
    os.utime(done, ns=(status.st_atime_ns, status.st_mtime_ns))
    growing.unlink()
    run_file(tmp_path, entries[1], [0.1, 0.4])
    facts = facts_of(tmp_path)
    assert facts.rows[0].curve == pytest.approx((0.1, 0.2, 0.3, 0.5), abs=0.001)
    assert facts.rows[1].curve == pytest.approx((0.1, 0.4), abs=0.001)
    (tmp_path / "page" / "curves.json").write_text('{"format": 1, "curves": {"a": [1]}}')
    done.write_bytes(b"no run file")
    assert facts_of(tmp_path).rows[0].curve == ()  # damaged memory: read anew


def test_text_from_outside_stays_text(tmp_path: Path) -> None:
    entries = make_sweep(tmp_path)
    fail(tmp_path, entries[0], EVIL * 3, b"\xff\xfe broken \n" + EVIL.encode() + b"\n" + b"z" * 10_000_000)
    beat(tmp_path, entries[1], host=EVIL)
    manifest = tmp_path / "manifest.jsonl"
    lines = manifest.read_text().splitlines()
    last = json.loads(lines[-1])
    last["label"] = EVIL
    last["coordinates"]["note"] = EVIL
    manifest.write_text("\n".join([*lines[:-1], json.dumps(last)]) + "\n")
    page = render([facts_of(tmp_path)], live=True)
    found = Elements(page)
    assert found.tags.count("script") == 1  # the page's own
    assert "img" not in found.tags
    assert not any(name.startswith("on") for name in found.attributes)
    assert '<script>document.title="taken"</script>' in found.text
    assert not any(character in page for character in "\x00\x1b\u202e")
    assert len(page) < 100_000


def test_a_log_is_shown_by_its_end_alone(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_bytes(b"x" * 10_000_000 + b"\nthe end \xff\n")
    shown = end_of_log(log).splitlines()
    assert shown[-1] == "the end \ufffd"
    assert max(map(len, shown)) <= 301
    assert end_of_log(tmp_path / "none") == ""
    assert clean("a" * 500) == "a" * 300 + "…"
    assert clean("tab\there\x07\u2066é 漢") == "tab here\ufffd\ufffdé 漢"


def test_many_cells_make_a_small_page(tmp_path: Path) -> None:
    """At most 300 bytes a cell, so that ten thousand take 3 MB."""
    entries = make_sweep(tmp_path, "network.actor.width=16,32,64,128", "train.seed=range(125)")
    template = run_file(tmp_path, entries[0], [0.1, 0.2, 0.3, 0.5]).read_bytes()
    for entry in entries:
        directory = cell_directory(tmp_path, entry.run_id)
        directory.mkdir(exist_ok=True)
        (directory / "run.h5").write_bytes(template)
        write_done(directory, entry.run_id, "done", seconds=1.0, attempts=1, job=None)
    facts = facts_of(tmp_path)
    few = len(render([facts], live=True))
    half = replace(facts, rows=facts.rows[:500])
    assert (few - len(render([half], live=True))) / 500 < 300


def test_two_sweeps_stand_side_by_side(tmp_path: Path) -> None:
    make_sweep(tmp_path / "one")
    make_sweep(tmp_path / "two", "train.seed=range(2)")
    answer = CliRunner().invoke(main, ["page", "one", "two", "--runs", str(tmp_path), "--json"])
    assert answer.exit_code == 0, answer.output
    page = Path(json.loads(answer.output)["page"])
    assert page == tmp_path / "one" / "page" / "one-two.html"
    text = page.read_text()
    assert "<h1>one</h1>" in text
    assert "<h1>two</h1>" in text


def test_a_page_of_a_finished_sweep_does_not_reload(tmp_path: Path) -> None:
    entries = make_sweep(tmp_path, "train.seed=0", "network.actor.width=16", "env.tasks=reach-v3")
    page = tmp_path / "page" / "index.html"
    assert not write_page([(tmp_path, entries, look(tmp_path, entries))], page, live=True)
    assert 'http-equiv="refresh"' in page.read_text()
    finish(tmp_path, entries[0], [0.1, 0.2, 0.3, 0.5])
    assert write_page([(tmp_path, entries, look(tmp_path, entries))], page, live=True)
    assert 'http-equiv="refresh"' not in page.read_text()


def test_only_the_whole_address_is_answered(tmp_path: Path) -> None:
    page = tmp_path / "index.html"
    page.write_text("<p>words</p>")
    with serve(page) as address:
        assert content_of(address) == b"<p>words</p>"
        page.write_text("<p>other</p>")
        assert content_of(address) == b"<p>other</p>"
        root = address[: address.index("/", 8)]
        for wrong in (f"{root}/", f"{root}/index.html", address[:-2] + "/", f"{address}../../etc/passwd"):
            assert code_of(urllib.request.Request(wrong)) == 404
        assert code_of(urllib.request.Request(address, headers={"Host": "evil.example:80"})) == 404
        assert code_of(urllib.request.Request(address, data=b"x")) == 501
        assert root.startswith("http://127.0.0.1:")


def content_of(address: str) -> bytes:
    with urllib.request.urlopen(address) as answer:
        return bytes(answer.read())


def code_of(request: urllib.request.Request) -> int:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    caught.value.close()
    return caught.value.code


@pytest.fixture
def busy_page(tmp_path: Path) -> Path:
    """The page of a sweep of many states."""
    entries = make_sweep(tmp_path / "busy", "train.seed=range(30)")
    for number, entry in enumerate(entries[:60]):
        finish(tmp_path / "busy", entry, [0.1, 0.2, 0.3, 0.4 + number / 200])
    for entry in entries[60:64]:
        fail(tmp_path / "busy", entry, EVIL, EVIL.encode())
    found = read_manifest(tmp_path / "busy")
    page = tmp_path / "busy" / "page" / "index.html"
    write_page([(tmp_path / "busy", found, look(tmp_path / "busy", found))], page, live=False)
    return page


@needs_browser
def test_a_browser_sorts_and_filters(tmp_path: Path, busy_page: Path) -> None:
    with browser(tmp_path / "profile") as window:
        window.open(busy_page.as_uri())
        assert window.complaints() == []
        assert window.run("return document.title") == "busy: the sweep so far"
        cells = "return [...document.querySelectorAll('.list tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
        names = window.run("return [...document.querySelectorAll('.head th')].map(h => h.textContent)")
        success = names.index("success")
        assert len(window.run(cells)) == 120
        window.click(".head th button", success)
        window.click(".head th button", success)
        shown = [row[success] for row in window.run(cells)]
        assert shown == sorted(shown, key=lambda text: float(text or -1), reverse=True)
        window.run(CHOOSE_FAILED)
        assert {row[names.index("state")] for row in window.run(cells)} == {"failed"}
        window.open(busy_page.as_uri())  # a reload keeps the choice
        assert len(window.run(cells)) == 4
        assert window.texts(".filters span") == ["4 of 120 cells"]


@needs_browser
@pytest.mark.parametrize("width", [1200, 500])
def test_a_browser_without_scripts_shows_it_whole(tmp_path: Path, busy_page: Path, width: int) -> None:
    """No wider than its window, every cell there, in a window and about as narrow as a phone's."""
    with browser(tmp_path / "profile", javascript=False) as window:
        window.open(busy_page.as_uri())
        assert window.complaints() == []
        assert window.run("return document.querySelectorAll('.list tbody tr').length") == 120
        assert window.run("return document.querySelector('.filters')") is None
        window.resize(width)
        assert window.run("return document.documentElement.scrollWidth <= innerWidth")
