"""A model's curvature report: numbers (`measure`), what they mean (`findings`), how they look."""

from .report import CurvatureReport, report
