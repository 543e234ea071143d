"""Figures and tables that belong to one notebook each."""
