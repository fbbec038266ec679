"""`make gpu-check`: how its parts are run, judged and reported; the parts themselves are rehearsed on stand-ins."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from gpu_check import ROOT, Part, Result, check, judge, parts, run_part, verdict
from gpu_report import write_report


def part(script: str = "", **more) -> Part:
    return Part("a part", "What it is about", 60, [sys.executable, "-c", script], **more)


@pytest.mark.parametrize(
    ("output", "code", "late", "state", "words"),
    [
        ('{"words": "all is well"}', 0, False, "passed", "all is well"),
        ("== 12 passed in 3 s ==", 0, False, "passed", "12 passed in 3 s"),
        ('{"words": "x", "state": "slow"}\n{"words": "y"}', 0, False, "slow", "x"),
        ('{"words": "x", "state": "slow"}\n{"words": "y", "state": "failed"}', 0, False, "failed", "y"),
        ('{"words": "well"}\nTraceback', 1, False, "failed", "it ended with exit code 1"),
        ('{"words": "well"}', -9, True, "failed", "it was not over after 7 s"),
        ('{"words": "no second GPU", "state": "left out"}', 0, False, "left out", "no second GPU"),
        ('{"words": "no JAX", "state": "left out"}\n{"words": "well"}', 0, False, "passed", "well"),
    ],
)
def test_a_part_is_judged_by_its_output_and_exit_code(output, code, late, state, words):
    result = judge(part(), output, code, 7.0, late)
    assert (result.state, result.words) == (state, words)
    assert bool(result.output) == (state in ("failed", "slow"))


def test_a_part_that_hangs_is_ended_with_its_children():
    hangs = "import subprocess, sys; print('{\"words\": \"begun\"}', flush=True); subprocess.run(['sleep', '300'])"
    start = time.monotonic()
    result = run_part(part(hangs), 4.0)
    assert time.monotonic() - start < 60
    assert (result.state, result.found) == ("failed", [{"words": "begun"}])


def test_a_command_that_is_not_there_fails_and_does_not_raise():
    assert "cannot start" in run_part(Part("a", "b", 9, ["/nowhere/at-all"]), 9).words


def test_parts_run_in_turn_and_are_reported_after_each():
    seconds, reports = [], []

    def run(one, left):
        seconds.append(left)
        return Result(one.name, one.about, "passed", "")

    todo = [part(), part(without="it is not installed"), part()]
    results = check(todo, 0.5, lambda results: reports.append(len(results)), run=run)
    assert [result.state for result in results] == ["passed", "left out", "passed"]
    assert results[1].words == "it is not installed"
    assert reports == [1, 2, 3]
    assert all(0 < left <= 30 for left in seconds), "no part may take longer than all of it"
    late = check(todo, 0.0, lambda results: None, run=run)
    assert [result.words for result in late] == [
        "no time was left",
        "it is not installed",
        "no time was left",
    ]


def test_nothing_is_tried_where_there_is_no_gpu_or_no_build():
    def run(one, left):
        return Result(one.name, one.about, "failed", "torch sees no GPU")

    results = check([part(needed=True), part()], 8, lambda results: None, run=run)
    assert [(result.state, result.words) for result in results] == [
        ("failed", "torch sees no GPU"),
        ("left out", "'a part' failed"),
    ]
    assert verdict(results) == "failed"
    assert verdict([Result("a", "b", "slow", ""), Result("a", "b", "passed", "")]) == "slow"


def test_all_parts_fit_the_time_that_an_issue_gives_them():
    """Those that come first have their limits within 8 minutes; a rehearsal has the same parts."""
    todo = parts(on_host=False)
    assert (
        sum(one.seconds for one in todo if one.name in ("machine", "kernels", "twins", "updates", "tests"))
        <= 480
    )
    assert [one.name for one in todo] == [one.name for one in parts(on_host=True)]
    assert all("--on-host" not in one.command for one in todo)


@pytest.mark.parametrize("on_host", [True, False])
def test_the_report_says_what_failed_and_whether_a_gpu_was_there(tmp_path, on_host):
    found = [{"words": "w", "width": 256, "graph_us": 1234.5}, {"words": "no numbers"}]
    results = [
        vars(Result("updates", "Launches and time", "slow", "3 times <what> it should take", 4.0, found)),
        vars(Result("kernels", "Every kernel", "failed", "td_target cannot run", 1.0, [], ["a last line"])),
    ]
    write_report(tmp_path / "report.html", {"verdict": "failed", "on_host": on_host, "results": results})
    page = (tmp_path / "report.html").read_text()
    assert ("Nothing here ran on a GPU" in page) == on_host
    assert ("Something failed" in page) != on_host
    for text in (
        "3 times &lt;what&gt; it should take",
        "td_target cannot run",
        "a last line",
        "<td>256</td>",
    ):
        assert text in page


def test_make_installs_nothing_for_a_python_that_is_named(tmp_path):
    def asked(*words):
        command = ["make", "-n", "-C", str(ROOT), "gpu-check", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    named = asked("PYTHON=/usr/bin/python3", f"OUT={tmp_path}")
    assert "pip" not in named
    assert f"/usr/bin/python3 benchmarks/gpu_check.py --out {tmp_path}" in named
    assert "--on-host" in asked("HOST=1")


def test_without_a_gpu_the_check_fails_at_once_with_the_cure(tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    command = [sys.executable, str(ROOT / "benchmarks/gpu_check.py"), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    whole = json.loads((tmp_path / "gpu-check.json").read_text())
    assert whole["verdict"] == "failed"
    assert "torch sees no GPU (driver: " in whole["results"][0]["words"]
    assert {result["state"] for result in whole["results"][1:]} == {"left out"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_check_is_rehearsed_on_stand_ins(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks/gpu_check.py"), "--on-host", "--minutes", "25"]
    done = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    whole = json.loads((tmp_path / "gpu-check.json").read_text())
    states = {result["name"]: result["state"] for result in whole["results"]}
    ran = ("machine", "build", "kernels", "twins", "runs", "updates", "tests", "loop", "systems")
    assert {states[name] for name in ran} == {"passed"}
    assert "Nothing here ran on a GPU" in (tmp_path / "report.html").read_text()
