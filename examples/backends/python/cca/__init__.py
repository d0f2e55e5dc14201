"""Realms of Arm CCA, as values."""

NAME = "cca-python"
