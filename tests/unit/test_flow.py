"""Answers as plain values: their clock, their JSON, and what an error may show of them."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_atscale.api.flow import Request, Response, shorten
from airflow_provider_atscale.exceptions import AtScaleMalformedAnswerError

from .flows import NOW, jwt, reply

URL = "https://atscale.example.com/v1/x"


def answer(body: bytes = b"", status: int = 200, **headers: str) -> Response:
    return Response(status, headers, body, URL)


@pytest.mark.parametrize(
    ("date", "epoch"),
    [
        ("Thu, 27 Feb 2025 09:53:20 GMT", NOW),
        ("Thu, 27 Feb 2025 10:53:20 +0100", NOW),
        ("Thu, 27 Feb 2025 09:53:20 -0000", NOW),
        ("Thu, 27 Feb 2025 09:53:20", NOW),
        ("2025-02-27T09:53:20Z", None),
        ("Thu, 27 Feb 2025 09:53:20 +99999999999999999999", None),
        ("Thu, 99 Feb 2025 09:53:20 GMT", None),
        ("", None),
        ("yesterday", None),
        ("Fri, 31 Dec 9999 23:59:59 -1400", None),
        ("Fri, 31 Dec 9999 23:59:59 GMT", None),
        ("\ud800", None),
    ],
)
def test_the_servers_clock(date, epoch):
    moment = answer(date=date).date
    assert (None if moment is None else moment.timestamp()) == epoch
    if moment is not None:
        assert moment.utcoffset() is not None


def test_without_a_date_header_there_is_no_clock():
    assert answer().date is None


@pytest.mark.parametrize("age", ["3600", "1", "0", "", "-1", "a while", "\ud800"], ids=ascii)
def test_an_answer_from_a_cache_tells_an_old_time(age):
    assert answer(date="Thu, 27 Feb 2025 09:53:20 GMT", age=age).date is None


@given(st.text() | st.from_regex(r"\A\w{3}, \d{1,2} \w{3} \d{2,5} \d\d:\d\d:\d\d( [+-]\d{2,6}| [A-Z]{1,4})?\Z"))
def test_no_date_whatever_breaks_the_clock(date):
    moment = answer(date=date).date
    assert moment is None or moment.utcoffset() < timedelta(days=1)


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"{", b'{"data": [', b"\xff\xfe\x00", b"[" * 100_000, b"1" * 5000, b"\x00"],
    ids=["empty", "html", "brace", "truncated", "bytes", "deep", "digits", "nul"],
)
def test_what_is_not_json_is_a_typed_error_that_shows_its_begin(body):
    with pytest.raises(AtScaleMalformedAnswerError, match=re.escape(URL)) as error:
        answer(body).json()
    assert error.value.http_status_code == 200
    assert "is AtScale itself and not a proxy or a login page" in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    ("status", "ok"),
    [(199, False), (200, True), (201, True), (204, True), (299, True), (300, False), (500, False)],
)
def test_which_statuses_are_success(status, ok):
    assert answer(status=status).ok is ok


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("short", "short"),
        ("two\n  lines\t", "two lines"),
        ("bell\x07 and nul\x00", "bell? and nul?"),
        ("word " * 100, ("word " * 40)[:20].strip() + " ..."),
        ("x" * 300, "..."),
        ("Invalid token: " + jwt({"sub": "u" * 300}), "Invalid token: ..."),
        ("", ""),
        (" " * 10_000, "..."),
    ],
    ids=["short", "lines", "unprintable", "words", "one word", "token", "empty", "blanks"],
)
def test_what_an_error_shows_of_a_foreign_text(text, expected):
    assert shorten(text, 20) == expected


@given(st.text(), st.from_regex(r"\A[A-Za-z0-9_.~+/=-]{8,60}\Z"), st.text(), st.integers(1, 80))
def test_a_token_is_shown_whole_or_not_at_all(before, token, after, limit):
    shown = shorten(f"{before} {token} {after}", limit)
    hidden = shown.replace(token, "***")
    assert token in f"{before}{after}" or token[:8] not in hidden or token[:8] in f"{before} {after}"


@given(st.text(max_size=5000), st.integers(1, 300))
def test_a_shown_text_is_printable_and_short(text, limit):
    shown = shorten(text, limit)
    assert shown.isprintable()
    assert len(shown) <= limit + 3


def test_a_request_keeps_its_own_headers_beside_the_credentials():
    request = Request("GET", URL, headers={"Accept": "application/json"})
    sent = request.with_headers({"Authorization": "Bearer x"})
    assert sent.headers == {"Accept": "application/json", "Authorization": "Bearer x"}
    assert request.headers == {"Accept": "application/json"}
    assert sent.repeatable


def test_the_helper_answers_as_a_server_does():
    response = reply({"a": 1}, 201).to(Request("GET", URL))
    assert (response.json(), response.date.timestamp(), response.url) == ({"a": 1}, NOW, URL)
