"""Errors are one line that says how to mend them."""

from iccld_cli.errors import IccldError, did_you_mean, reason_of


def test_one_line_with_the_hint_behind_the_message():
    error = IccldError("no frame\nin data/x", "run   prepare again")
    assert str(error) == "no frame in data/x: run prepare again"
    assert (error.message, error.hint) == ("no frame\nin data/x", "run   prepare again")
    assert str(IccldError("no frame")) == "no frame"


def test_the_nearest_word_is_named():
    assert did_you_mean("bicicle", ["car", "bicycle", "bus"]) == "did you mean 'bicycle'?"


def test_all_words_are_named_where_none_is_near():
    assert did_you_mean("zzz", ["car", "bus"]) == "choose one of bus, car"


def test_words_may_come_as_an_iterator():
    assert did_you_mean("buss", iter(["car", "bus"])) == "did you mean 'bus'?"


def test_the_line_that_says_something_is_a_library_s_reason():
    said = "Exception from src/a.cpp:1:\nCheck 'size' failed at b.cpp:2:\nIncorrect weights in bin file!\n\n"
    assert reason_of(RuntimeError(said)) == "Incorrect weights in bin file!"
    assert reason_of(ValueError("\n")) == "ValueError"
    assert reason_of(ValueError("x" * 300)) == "x" * 200
