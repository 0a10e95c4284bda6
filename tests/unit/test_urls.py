"""To which server a URL leads, whoever wrote it."""

import pytest

from swiftfs.store.login import BadUrl, as_sent, origin, server_of


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://a/", ("http", "a", 80)),
        ("HTTPS://A:443/x", ("https", "a", 443)),
        ("https://a", ("https", "a", 443)),
        ("http://[::1]:8080/x", ("http", "::1", 8080)),
        ("http://b@a:1/", ("http", "a", 1)),
        ("http://a\\@b/", ("http", "a", 80)),
        ("http://a#@b/", ("http", "a", 80)),
        ("http://bücher.example/", ("http", "xn--bcher-kva.example", 80)),
    ],
)
def test_the_server_that_gets_the_request(url: str, expected: tuple[str, str, int]) -> None:
    assert origin(url) == expected
    assert origin(as_sent(url)) == expected


@pytest.mark.parametrize("pair", [("http://a/", "https://a/"), ("http://a:80/", "http://a:81/")])
def test_another_scheme_or_port_is_another_server(pair: tuple[str, str]) -> None:
    assert len({origin(url) for url in pair}) == 2


@pytest.mark.parametrize(
    "url",
    [
        "http://[::1",
        "http://a:99999/",
        "http://a:b/",
        "http://a\x1b[2J/",
        "http://a\uff0fb/",
        "x://a:b",
        "a/b",
        "\0http://a/",
    ],
)
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(BadUrl, match="is no valid URL") as caught:
        origin(url)
    assert str(caught.value).isprintable()


def test_a_message_names_a_server_without_its_user() -> None:
    assert server_of("https://user:secret@a:8080/path?query") == "https://a:8080"
