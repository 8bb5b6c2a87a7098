"""A model's curvature report: what was measured (`measure`), what it means (`findings`), how it is shown."""

from .report import CurvatureReport, report
