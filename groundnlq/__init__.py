"""GroundNLQ kit: find the moment that answers a question in a long first-person video."""

__version__ = "0.2.0"
