"""Sizes as people write them."""

import pytest

from ledmerge.cli.sizes import parse_size, show_size
from ledmerge.errors import RecipeError

SIZES = {
    "1000": 1000,
    "0": 0,
    "512MiB": 512 * 2**20,
    "512mib": 512 * 2**20,
    "5GB": 5 * 10**9,
    "5 G": 5 * 10**9,
    " 800M ": 800 * 10**6,
    "1.5KiB": 1536,
    "2TiB": 2 * 2**40,
    "7B": 7,
    "1" + "0" * 320: 10**320,
}


@pytest.mark.parametrize("text", SIZES)
def test_a_size_is_read(text: str):
    assert parse_size(text, "--memory") == SIZES[text]


@pytest.mark.parametrize(
    "text", ["", "GB", "-1", "five", "5XB", "5GBs", "1e9", "5,000", "1.GB", "∞"]
)
def test_rubbish_is_refused_with_an_example(text: str):
    with pytest.raises(RecipeError, match=r"^--memory: '.*' is not a size; write 512MiB, 5GB or a"):
        parse_size(text, "--memory")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (999_700, "1 MB"),
        (1.236e9, "1.24 GB"),
        (5e12, "5 TB"),
    ],
)
def test_a_size_is_shown_in_three_digits(count: float, text: str):
    assert show_size(count) == text
