"""The tiny prepared data of the trainer's tests."""

from tests.train.conftest import data

__all__ = ["data"]
