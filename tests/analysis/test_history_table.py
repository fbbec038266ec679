"""Tables of someone else's runs: what stands in a row stands in the dataset, and a bad row is named."""

import csv
from pathlib import Path

import numpy as np
import pytest

from analysis.errors import SweepError
from analysis.gridding import to_runs
from analysis.history_table import MEAN, are_histories, open_histories
from analysis.sweep_study import study
from analysis.variants import variants


def write_table(path: Path, header: str, *rows: str) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_every_value_is_in_its_place(tmp_path: Path) -> None:
    table = write_table(
        tmp_path / "runs.csv",
        "run,step,task,success,width,seed,parameters,dormant_critic,state",
        "b,2000,push-v3,0.5,64,1,3000,0.2,finished",
        "b,1000,push-v3,0.25,64,1,3000,0.1,finished",
        "b,1000,reach-v3,1,64,1,3000,0.1,finished",
        "a,1000,reach-v3,0.75,32,0,1000,,crashed",
        "a,3000,,,32,0,1000,0.9,crashed",  # logged something else
    )
    dataset = to_runs(open_histories([table]))
    assert dataset.run_id.values.tolist() == ["b", "a"]
    assert dataset.benchmark.values.tolist() == ["push-v3+reach-v3", "reach-v3"]
    assert dataset.outcome.values.tolist() == ["done", "failed"]
    assert dataset.env_steps.values.tolist() == [[1000, 2000], [1000, -1]]
    b, a = dataset.isel(run=0), dataset.isel(run=1)
    np.testing.assert_array_equal(b.success.sel(task="push-v3"), [0.25, 0.5])
    np.testing.assert_array_equal(b.success.sel(task="reach-v3"), [1, np.nan])
    np.testing.assert_array_equal(a.success.sel(task="reach-v3"), [0.75, np.nan])
    np.testing.assert_array_equal(dataset.dormant_critic, [[0.1, 0.2], [np.nan, np.nan]])
    assert (int(b.critic_width), int(b.seed), int(b.parameters_total)) == (64, 1, 3000)


def test_what_weights_and_biases_exports(tmp_path: Path) -> None:
    """A chart as CSV is wide, with the ends of what was smoothed; the table of runs says what each is."""
    chart = write_table(
        tmp_path / "chart.csv",
        '"Step","big - eval/success","big - eval/success__MIN","big - eval/success__MAX","small - eval/success"',
        '"1000","0.5","0.4","0.6","0.25"',
        '"2000","0.75","0.7","0.8",""',
    )
    runs = write_table(
        tmp_path / "runs.csv",
        "Name,State,benchmark,width,seed,parameters_actor,parameters_critic",
        "big,finished,MT10,64,3,100,200",
        "small,running,MT10,32,4,10,20",
    )
    assert are_histories([chart], {})
    dataset = to_runs(open_histories([chart], runs))
    small, big = dataset.isel(run=0), dataset.isel(run=1)
    assert big.success.values[:, 0].tolist() == [0.5, 0.75]
    np.testing.assert_array_equal(small.success.values[:, 0], [0.25, np.nan])
    assert (int(big.parameters_total), int(small.parameters_total)) == (300, 30)
    assert (str(big.outcome.values), str(small.outcome.values)) == ("done", "unfinished")
    assert dataset.task.values.tolist() == [MEAN]
    assert [variant.task_count for variant in variants(dataset)] == [10, 10]


def test_columns_of_another_name(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.csv", "id,_step,charts/sr,parameters_total", "x,10,0.5,100")
    columns = {"run": "id", "success": "charts/sr"}
    assert not are_histories([table], {})
    assert are_histories([table], columns)
    assert to_runs(open_histories([table], columns=columns)).success.values.ravel().tolist() == [0.5]


def test_a_history_becomes_a_study(tmp_path: Path) -> None:
    """As from run files: a law where there is one, and no claim about a random policy nobody measured."""
    generator = np.random.default_rng(0)
    with (tmp_path / "theirs.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["run", "step", "success", "benchmark", "width", "seed", "parameters", "episodes"])
        for width in (256, 512, 1024, 2048, 4096):
            for seed in range(3):
                final = 1 - (0.05 + 0.3 * (width / 256) ** -0.8) * np.exp(generator.normal(0, 0.02))
                for part in range(1, 4):
                    values = [f"w{width}s{seed}", 1000 * part, final * part / 3]
                    rows.writerow([*values, "MT10", width, seed, 9 * width**2, 50])
    page = study(open_histories([tmp_path / "theirs.csv"]), "theirs")
    assert any(line.startswith("MT10: ") and "failure falls as N^-" in line for line in page.shows)
    assert any("the random policy is not known" in line for line in page.does_not_show)


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("run,step,parameters", "a,1,2", "no column success.*--column success=THEIRS"),
        ("run,step,success,parameters", "a,1,1.5,2", "line 2: success is 1.5"),
        ("run,step,success,parameters", "a,soon,0.5,2", "line 2: step is 'soon'"),
        ("run,step,success", "a,1,0.5", "run a: no parameters_total"),
    ],
)
def test_a_bad_table_is_named(tmp_path: Path, header: str, row: str, message: str) -> None:
    with pytest.raises(SweepError, match=message):
        open_histories([write_table(tmp_path / "t.csv", header, row)])
