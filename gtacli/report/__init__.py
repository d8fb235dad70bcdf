"""The HTML report: several runs on one self-contained page.

`run_folders` reads the runs, `groups` groups them by their settings and `metrics` averages over
seeds. `predictions` and `attention` run the models. The page's templates are in templates/, its
scripts in static/: curves (with uPlot), previews, attention maps, predictions.
"""
