"""Figures and widgets: timelines, the explorer, the diagnosis report."""
