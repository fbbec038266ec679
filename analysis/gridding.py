"""The two forms of a sweep's dataset: over a flat `run` dim, and over the grid that the runs fill."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # importing it costs half a second, and the paper's page needs none of it
    import xarray as xr

GRID_DIMS = ("benchmark", "system", "actor_width", "critic_width", "seed")


def to_grid(dataset: xr.Dataset) -> xr.Dataset:
    """The dataset over its grid dims, if every combination of their values has exactly one run; else as it is."""
    places = list(zip(*(dataset[dim].values.tolist() for dim in GRID_DIMS), strict=True))
    axes = [sorted(set(values)) for values in zip(*places, strict=True)]
    shape = tuple(map(len, axes))
    if len(set(places)) < len(places) or np.prod(shape) != len(places):
        return dataset
    if places != sorted(places):  # a gathered sweep is sorted, and nothing is copied
        dataset = dataset.isel(run=sorted(range(len(places)), key=places.__getitem__))
    runs = dataset.drop_vars([*GRID_DIMS, "run"])
    coordinates = {name: _unfold(value, shape) for name, value in runs.coords.items()}
    grid = runs.map(_unfold, args=(shape,)).assign_attrs(dataset.attrs)
    return grid.assign_coords(coordinates | dict(zip(GRID_DIMS, axes, strict=True)))


def to_runs(dataset: xr.Dataset) -> xr.Dataset:
    """The dataset with a flat `run` dim, whichever form it has."""
    if "run" in dataset.dims:
        return dataset
    shape = tuple(dataset.sizes[dim] for dim in GRID_DIMS)
    values = np.meshgrid(*(dataset[dim].values for dim in GRID_DIMS), indexing="ij")
    places = {dim: ("run", value.ravel()) for dim, value in zip(GRID_DIMS, values, strict=True)}
    grid = dataset.drop_vars(GRID_DIMS)
    coordinates = {name: _fold(value) for name, value in grid.coords.items()}
    runs = grid.map(_fold).assign_attrs(dataset.attrs)
    return runs.assign_coords(coordinates | places | {"run": range(int(np.prod(shape)))})


def last(dataset: xr.Dataset, name: str) -> xr.DataArray:
    """The variable `name` without its dim `eval`: the last known value of each run (and task).

    Runs of one dataset may have different numbers of evaluations, and missing values are NaN. So `isel(eval=-1)` would
    be NaN for all runs but the longest.
    """
    import xarray as xr

    values = dataset[name]
    array = np.moveaxis(values.values, values.dims.index("eval"), -1)
    missing = array == -1 if array.dtype.kind == "i" else np.isnan(array)
    place = array.shape[-1] - 1 - np.argmin(missing[..., ::-1], axis=-1)
    dims = [dim for dim in values.dims if dim != "eval"]
    found = np.take_along_axis(array, place[..., None], -1)[..., 0]
    coords = {key: value for key, value in values.coords.items() if "eval" not in value.dims}
    return xr.DataArray(found, coords, dims, name=name)


def _unfold(array: xr.DataArray, shape: tuple[int, ...]) -> xr.DataArray:
    """The array with the grid's dims in the place of `run`; a view."""
    import xarray as xr

    if "run" not in array.dims:
        return array
    values = array.values.reshape(*shape, *array.shape[1:])
    return xr.DataArray(values, dims=(*GRID_DIMS, *array.dims[1:]), attrs=array.attrs)


def _fold(array: xr.DataArray) -> xr.DataArray:
    import xarray as xr

    if GRID_DIMS[0] not in array.dims:
        return array
    values = array.values.reshape(-1, *array.shape[len(GRID_DIMS) :])
    return xr.DataArray(values, dims=("run", *array.dims[len(GRID_DIMS) :]), attrs=array.attrs)
