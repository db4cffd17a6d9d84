"""`passl report`: what a run was, whether it learned, and what to do with it, as one HTML file."""

from .page import write_report

__all__ = ['write_report']
