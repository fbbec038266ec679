"""The command as a user types it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from analysis.fit_scaling_laws import main
from analysis.frames import load
from tests.analysis.reference_analysis import config_of, write_sweep

ROOT = Path(__file__).resolve().parents[2]


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, list(words))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_a_sweep(tmp_path: Path) -> None:
    write_sweep(tmp_path / "smoke", [config_of(width=width) for width in (16, 32)])
    code, output = run(str(tmp_path / "smoke"))
    assert code == 0
    report = tmp_path / "smoke" / "report"
    assert str(report / "report.html") in output.replace("\n", "")
    assert "not identified" in output
    names = {path.name for path in report.iterdir()}
    assert names == {"report.html", "fits.json"} | {
        f"{name}.svg"
        for name in (
            "learning_curves",
            "success_against_parameters",
            "success_against_parts",
            "dormant",
            "plasticity_curves",
            "success_against_compute",
            "success_against_steps_times_size",
        )
    }
    fits = json.loads((report / "fits.json").read_text())
    assert fits["drawer-close + reach"]["reason"] == "2 sizes, 4 needed"
    assert load(tmp_path / "smoke" / "dataset.nc").sizes["run"] == 2


def test_several_sweeps_are_taken_together(tmp_path: Path) -> None:
    for seed, name in enumerate(("a", "b")):
        write_sweep(tmp_path / name, [config_of(width=width, seed=seed) for width in (16, 32)])
    code, _ = run(str(tmp_path / "a"), str(tmp_path / "b"))
    assert code == 0
    assert len(json.loads((tmp_path / "a+b" / "report" / "fits.json").read_text())["comparisons"]) == 1
    assert (tmp_path / "a+b" / "report" / "report.html").exists()


def test_a_history_table(tmp_path: Path) -> None:
    rows = [f"w{w},{step},0.{step},{w},{w * w}" for w in (2, 4, 8, 16) for step in (1, 2, 3)]
    table = write_table(tmp_path / "theirs.csv", "run,step,sr,width,parameters", *rows)
    code, output = run(str(table), "--column", "success=sr", "--json")
    assert code == 0, output
    assert "theirs" in json.loads(output)


def test_a_table_with_tasks_is_fitted_as_one(tmp_path: Path) -> None:
    rows = [
        f"MT{tasks},{tasks},{size},{1 - (0.02 + 0.1 * tasks**0.5 * (size / 1e5) ** -0.4)},100000"
        for tasks in (10, 25, 50)
        for size in (1e5, 4e5, 2e6, 1e7, 1e8)
    ]
    table = write_table(tmp_path / "t.csv", "benchmark,tasks,parameters,success,n", *rows)
    code, output = run(str(table), "--model", "tasks", "--json")
    assert code == 0
    (law,) = json.loads(output).values()
    assert {e["of"]: round(e["estimate"], 2) for e in law["exponents"]} == {"parameters": 0.4, "tasks": 0.5}


def test_json_is_all_that_is_printed(tmp_path: Path) -> None:
    write_sweep(tmp_path, [config_of()])
    code, output = run(str(tmp_path), "--json", "--out", str(tmp_path / "elsewhere"))
    assert code == 0
    assert json.loads(output)["drawer-close + reach"]["identified"] is False
    assert (tmp_path / "elsewhere" / "report.html").exists()


def test_the_paper(tmp_path: Path) -> None:
    code, output = run("--paper", "--out", str(tmp_path))
    assert code == 0
    assert "MT10" in output


def test_nothing_finished(tmp_path: Path) -> None:
    write_sweep(tmp_path, [config_of()], success=[0.1])
    code, output = run(str(tmp_path))
    assert code == 1
    assert "no finished runs" in output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["runs/nowhere"], "no folder runs/nowhere"),
        ([], "name a sweep"),
        (["runs/smoke", "--paper"], "one of the two"),
        (["."], "no run files under"),
    ],
)
def test_mistakes_are_named(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = run(*words)
    assert code != 0
    assert message in output


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    write_sweep(tmp_path, [config_of()])
    (tmp_path / "file").write_text("")
    code, output = run(str(tmp_path), "--out", str(tmp_path / "file" / "report"))
    assert code == 1
    assert "--out" in output


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['x', '--help']; sys.path[0] = ''\n"
        "import runpy\ntry: runpy.run_path('analysis/fit_scaling_laws.py', run_name='__main__')\n"
        "except SystemExit: print([m for m in ('numpy', 'xarray', 'matplotlib', 'scipy', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]"


def test_it_runs_as_a_file() -> None:
    """As a file, this folder's statistics.py must not hide the standard library's."""
    done = subprocess.run(
        [sys.executable, "analysis/fit_scaling_laws.py", "nowhere"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 1
    assert done.stderr.strip() == "Error: no folder nowhere; name a sweep, as in runs/smoke"


def write_table(path: Path, header: str, *rows: str) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_a_table(tmp_path: Path) -> None:
    rows = [f"{10**size},{1 - 0.03 - 0.3 * 10 ** (-0.4 * (size - 5)):.6f},100000" for size in (5, 6, 7, 8, 9)]
    table = write_table(tmp_path / "theirs.csv", "parameters,success,n", *rows)
    code, output = run(str(table))
    assert code == 0
    assert "theirs: the exponent with a free floor is 0.40;" in output.replace("\n", " ")
    assert (tmp_path / "theirs-report" / "report.html").exists()


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("parameters,success", "1,1", "has no column n"),
        ("parameters,success,n", "1e6,1.5,10", "line 2: success must be from 0 to 1"),
        ("parameters,success,n", "many,0.5,10", "line 2: could not convert"),
    ],
)
def test_a_bad_table_is_named(tmp_path: Path, header: str, row: str, message: str) -> None:
    code, output = run(str(write_table(tmp_path / "bad.csv", header, row)))
    assert code == 1
    assert message in output.replace("\n", " ")


def test_a_law_that_the_table_cannot_feed(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.csv", "parameters,success,n", "1,0.5,10")
    code, output = run(str(table), "--model", "actor_critic")
    assert code == 1
    assert "has no column actor, critic" in output.replace("\n", " ")


def test_a_kept_dataset_writes_the_same_report(tmp_path: Path) -> None:
    """From the file, and from the folder that holds it: the same page, byte for byte."""
    write_sweep(
        tmp_path / "early", [config_of(width=width, seed=seed) for width in (16, 32) for seed in (0, 1)]
    )
    kept = tmp_path / "studies" / "early"
    kept.mkdir(parents=True)
    code, _ = run(str(tmp_path / "early"), "--keep", str(kept / "dataset.nc"))
    assert code == 0
    page = (tmp_path / "early" / "report" / "report.html").read_bytes()
    for source in (kept / "dataset.nc", kept):
        code, output = run(str(source))
        assert code == 0, output
        assert (kept / "report" / "report.html").read_bytes() == page


def test_kept_datasets_and_sweeps_are_taken_together(tmp_path: Path) -> None:
    """The page is that of the sweeps themselves, and the datasets stay as they are."""
    sweeps = [tmp_path / name for name in ("a", "b")]
    for seed, sweep in enumerate(sweeps):
        write_sweep(sweep, [config_of(width=width, seed=seed) for width in (16, 32)])
    code, _ = run(*map(str, sweeps))
    assert code == 0
    page = (tmp_path / "a+b" / "report" / "report.html").read_bytes()
    kept = tmp_path / "kept" / "a"
    kept.mkdir(parents=True)
    assert run(str(sweeps[0]), "--keep", str(kept / "dataset.nc"))[0] == 0
    before = (kept / "dataset.nc").read_bytes()
    code, output = run(str(kept), str(sweeps[1]))
    assert code == 0, output
    assert (tmp_path / "kept" / "a+b" / "report" / "report.html").read_bytes() == page
    assert (kept / "dataset.nc").read_bytes() == before


def test_a_kept_study_is_gone_on_with_under_its_name(tmp_path: Path) -> None:
    """Further seeds of a study, whose first are kept as a dataset: one study, and again one dataset."""
    kept, more, whole = (tmp_path / place / "early" for place in ("kept", "more", "whole"))
    for folder, seed in ((kept, 0), (more, 1)):
        write_sweep(folder, [config_of(width=width, seed=seed) for width in (16, 32)])
    assert run(str(kept), "--keep", str(kept / "dataset.nc"))[0] == 0
    shutil.rmtree(kept / "cells")
    whole.mkdir(parents=True)
    joined = tmp_path / "joined"
    code, output = run(str(kept), str(more), "--keep", str(whole / "dataset.nc"), "--out", str(joined))
    assert code == 0, output
    page = (joined / "report.html").read_text()
    assert "<title>Scaling study: early</title>" in page
    assert run(str(whole))[0] == 0
    assert (whole / "report" / "report.html").read_text() == page


def test_files_of_one_run_each_are_named_by_their_stems(tmp_path: Path) -> None:
    for width in (2, 4):
        rows = [f"{step},0.{step},{width},{width**2}" for step in (1, 2)]
        write_table(tmp_path / f"w{width}.csv", "step,success,width,parameters", *rows)
    code, output = run(str(tmp_path), "--json")
    assert code == 0, output
    assert "w2  actor 2" in (tmp_path / "report" / "report.html").read_text()


def test_tables_and_sweeps_are_not_mixed(tmp_path: Path) -> None:
    write_sweep(tmp_path / "a", [config_of()])
    table = write_table(tmp_path / "t.csv", "parameters,success,n", "1,0.5,10")
    code, output = run(str(tmp_path / "a"), str(table))
    assert code == 1
    assert "is a table; analyse them one by one" in output.replace("\n", " ")
