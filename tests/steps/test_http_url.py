"""URLs are read once: what is sent, where a connection goes, and what a relative one means."""

from __future__ import annotations

import pytest

from taskforge.steps.http_url import Origin, read_url


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("http://h", "http://h/"), ("http://h?a=1", "http://h/?a=1"), ("HTTP://H:80/", "http://h/"),
        ("https://h:443/x#part", "https://h/x"), ("https://h:80/", "https://h:80/"), ("http://h:/x", "http://h/x"),
        ("http://h/a%2fb/%7e?q=a+b&c=%20", "http://h/a%2fb/%7e?q=a+b&c=%20"), ("http://h//a//b", "http://h//a//b"),
        ("http://h/%zz/100%?x=%", "http://h/%25zz/100%25?x=%25"), ("http://h/a|b?c^d", "http://h/a%7Cb?c%5Ed"),
        ("http://h/é%C3%A9?ü={}", "http://h/%C3%A9%C3%A9?%C3%BC=%7B%7D"), ("http://h/../a/./b", "http://h/../a/./b"),
        ("http://h/[x]?[y]", "http://h/[x]?[y]"), ("http://bücher.de:8080/", "http://xn--bcher-kva.de:8080/"),
        ("http://Straße.de/", "http://xn--strae-oqa.de/"), ("http://[::1]:80/", "http://[::1]/"),
        ("http://[2001:DB8:0::1]:81/", "http://[2001:db8::1]:81/"), ("http://127.1/", "http://127.0.0.1/"),
        ("http://0x7f000001:9/", "http://127.0.0.1:9/"), ("http://127\u30020\u30020\u30021/", "http://127.0.0.1/"),
        ("http://\u2460\u2461\u2466.0.0.1/", "http://127.0.0.1/"),
    ],
)  # fmt: skip
def test_what_is_valid_is_sent_as_it_was_written(text: str, sent: str) -> None:
    assert str(read_url(text)) == sent


def test_a_url_tells_where_the_connection_goes() -> None:
    assert read_url("https://[::1]:8443/a?b").origin == Origin(True, "::1", 8443)
    assert read_url("http://h/").origin == read_url("http://H:80/x").origin != read_url("https://h:80/").origin


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("../x", "http://h:8/x"), ("?q", "http://h:8/a/b?q"), ("", "http://h:8/a/b?c"), ("#part", "http://h:8/a/b?c"),
        ("//o/x", "http://o/x"), ("/é", "http://h:8/%C3%A9"), ("./", "http://h:8/a/"), ("..", "http://h:8/"),
        ("https://o/", "https://o/"), ("d/./e/../f;p=1", "http://h:8/a/d/f;p=1"), ("?", "http://h:8/a/b"),
        ("x//y//../;", "http://h:8/a/x//y/;"), (";", "http://h:8/a/;"), ("../../..", "http://h:8/"),
        ("/x//y/.", "http://h:8/x//y/"), ("a:0/x", None), ("///o/x", None), ("//", None),
    ],
)  # fmt: skip
def test_a_relative_url_is_read_from_where_it_stands(text: str, sent: str | None) -> None:
    base = read_url("http://h:8/a/b?c")
    if sent is None:
        with pytest.raises(ValueError, match=r"no valid host|scheme"):
            read_url(text, base)
    else:
        assert str(read_url(text, base)) == sent


def test_a_path_that_holds_a_url_is_kept_when_it_is_gone_on_from() -> None:
    assert str(read_url("../x", read_url("http://h/https://o/a/b?c"))) == "http://h/https://o/x"


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("http://h", "/?x+y=a%2Bb%26c%3Dd%3B%C3%A9/?:@!$'()*,~%25"), ("http://h/?a", "/?a&x+y=a%2Bb"),
        ("http://h/?a&", "/?a&x+y=a%2Bb"), ("http://h/?a?", "/?a?&x+y=a%2Bb"), ("http://h/?", "/?x+y=a%2Bb"),
    ],
)  # fmt: skip
def test_parameters_are_put_behind_those_that_are_there(text: str, sent: str) -> None:
    value = "a+b&c=d;é/?:@!$'()*,~%" if text == "http://h" else "a+b"
    assert read_url(text).with_parameters([("x y", value)]).target == sent


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("gopher://secret/", "scheme is 'gopher'"), ("http://secret@/", "user name"), ("http://@secret/", "user name"),
        ("http://:secret@h/", "user name"), ("http://se cret/", "space"), ("http://sec\\ret/", "backslash"),
        ("http://h:secret/", "cannot be read"), ("http://[secret]/", "cannot|no valid"),
        ("http://[v1.secret]/", "no valid host"), ("http://secret[::1]/", "no valid host"),
        ("http://[::1].secret/", "no valid host"), ("http://[::1]80/secret", "no valid host"),
        ("http://:[::1]:80/secret", "no valid host"),
        ("http://h.300/", "in a number"), ("http://h:0/secret", "port is 0"), ("http://h:65536/", "cannot be read"),
        ("http:///secret", "no valid host"), ("http://" + "ü" * 300, "cannot be"), ("http://.de/", "no valid host"),
        ("http://a\u2100b/", "cannot be read"), ("http://h:\u0664/", "cannot be read"), ("", "scheme"),
    ],
)  # fmt: skip
def test_a_refusal_says_why_and_keeps_the_url_to_itself(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as refused:
        read_url(text)
    assert "secret" not in str(refused.value)
