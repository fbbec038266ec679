"""The figures, as matplotlib `Figure`s of one style: what is drawn is handed in, and only summarised here."""

from analysis.figures.fields import heat_map, maps
from analysis.figures.files import svg, write
from analysis.figures.forest import Row, forest
from analysis.figures.laws import (
    Band,
    Failure,
    Predicted,
    StepsLine,
    extrapolation,
    failure,
    profiles_of_fit,
    residuals,
    steps_by_updates,
)
from analysis.figures.learning import BAND_FROM, FEW_BANDS, FEW_TASKS, learning_curves, measures
from analysis.figures.sizes import Rate, Series, lines, rates, success_against_parameters
from analysis.figures.style import BENCHMARK_COLOURS, INK, OKABE_ITO, PALE, PAPER, first_panels, thousands
from analysis.figures.tasks import tasks

__all__ = [
    "BAND_FROM",
    "BENCHMARK_COLOURS",
    "FEW_BANDS",
    "FEW_TASKS",
    "INK",
    "OKABE_ITO",
    "PALE",
    "PAPER",
    "Band",
    "Failure",
    "Predicted",
    "Rate",
    "Row",
    "Series",
    "StepsLine",
    "extrapolation",
    "failure",
    "first_panels",
    "forest",
    "heat_map",
    "learning_curves",
    "lines",
    "maps",
    "measures",
    "profiles_of_fit",
    "rates",
    "residuals",
    "steps_by_updates",
    "success_against_parameters",
    "svg",
    "tasks",
    "thousands",
    "write",
]
