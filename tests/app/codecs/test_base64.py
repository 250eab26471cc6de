"""Base64 in the forms that clients send."""

import base64
import textwrap
from collections.abc import Callable
from urllib.parse import quote

import pytest

from app.codecs.base64 import read_base64

CONTENTS = [bytes(range(256)), b"\xfb\xff\xfe" * 30, b"a", b"ab", b"abc", b"?>?>~~"]
FORMS: dict[str, Callable[[str], str]] = {
    "plain": lambda text: text,
    "url": lambda text: f"data:image/png;base64,{text}",
    "url without type": lambda text: f"data:;base64,{text}",
    "url of a wrong but common type": lambda text: f"data:image/jpg;base64,{text}",
    "url with parameters": lambda text: f"data:image/png;charset=utf-8;name=a.png;base64,{text}",
    "url in capitals": lambda text: f"DATA:image/PNG;BASE64,{text}",
    "url with spaces": lambda text: f"data:image/png; base64, {text}",
    "url, percent-encoded": lambda text: f"data:image/png;base64,{quote(text, safe='')}",
    "url, in lines": lambda text: "data:image/png;base64," + "\r\n".join(textwrap.wrap(text, 76)),
    "lines of Unix": lambda text: "\n".join(textwrap.wrap(text, 64)) + "\n",
    "lines of MIME": lambda text: "\r\n".join(textwrap.wrap(text, 76)) + "\r\n",
    "indented": lambda text: "".join(f"\t  {line}\n" for line in textwrap.wrap(text, 60)),
    "without padding": lambda text: text.rstrip("="),
    "URL-safe": lambda text: text.translate(str.maketrans("+/", "-_")),
    "URL-safe without padding": lambda text: text.translate(str.maketrans("+/", "-_")).rstrip("="),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("content", CONTENTS)
def test_every_form_is_decoded_to_the_same_bytes(form: str, content: bytes) -> None:
    assert read_base64(FORMS[form](base64.b64encode(content).decode())) == content


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("YWJjZ", "5 characters"),
        ("YWJj=", "1 of padding"),
        ("YWI==", "2 of padding"),
        ("YQ=", "1 of padding"),
        ("YW=Jj", "not base64"),
        ("YWI=YWI=", "not base64"),
        ("+A-A", "another alphabet"),
        ("YWJ*", "not base64"),
        ("YW\0Jj", "not base64"),
        ("é", "'é' is not in its alphabet"),
        ("data:image/png,YWJj", "does not declare base64"),
        ("data:image/png;base65,YWJj", "does not declare base64"),
        ("DATA:YWJj", "does not declare base64"),
        ("data:image/png;base64,data:image/png;base64,YWJj", "not base64"),
        ("https://example.com/a.png", "not base64"),
    ],
)
def test_what_is_ambiguous_is_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"send the bytes|write data:") as error:
        read_base64(text)
    assert message in str(error.value)
