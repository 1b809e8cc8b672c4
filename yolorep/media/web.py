"""Fetching over HTTP, with a time limit for everything and the reason why not in one line."""

from __future__ import annotations

import ssl
import string
import time
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse, InvalidURL
from typing import cast
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urlsplit, urlunsplit
from urllib.request import (
    HTTPBasicAuthHandler,
    HTTPDigestAuthHandler,
    HTTPPasswordMgrWithDefaultRealm,
    Request,
    build_opener,
)

from yolorep.media.urls import url_fault, without_secrets

_CHUNK = 65536
#: Answers that are another one the next time: too many requests, and the server took too long.
_PASSING = (408, 425, 429)


class SourceError(Exception):
    """A source cannot be opened, or was lost.

    Attributes:
        reason: why, in words.
        final: it will be the same the next time.
        unreachable: there is nobody to answer.
    """

    def __init__(self, reason: str, *, final: bool = False, unreachable: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.final = final
        self.unreachable = unreachable


def open_url(url: str, *, timeout: float) -> HTTPResponse:
    """Asks an HTTP server; user and password in the URL answer its question for them.

    Args:
        url: an http or https URL.
        timeout: seconds for connecting, and for every wait for bytes.

    Raises:
        SourceError: if there is no good answer.
    """
    try:
        parts = urlsplit(url)
        user, at, host = parts.netloc.rpartition("@")
        path, query = (quote(part, safe=string.punctuation) for part in (parts.path, parts.query))
        plain = urlunsplit(parts._replace(netloc=host, path=path, query=query, fragment=""))
        passwords = HTTPPasswordMgrWithDefaultRealm()
        if at:
            name, _, password = user.partition(":")
            passwords.add_password(None, plain, unquote(name), unquote(password))
        opener = build_opener(HTTPDigestAuthHandler(passwords), HTTPBasicAuthHandler(passwords))
        request = Request(plain, headers={"User-Agent": "yolorep"})
        return cast(HTTPResponse, opener.open(request, timeout=timeout))
    except HTTPError as error:
        error.close()
        hint = "; put user:password@ into the URL" if error.code == 401 and not at else ""
        final = error.code < 500 and error.code not in _PASSING  # 300: to where nobody goes, or in circles
        reason = without_secrets(next(iter(str(error.reason).splitlines()), ""))  # it may quote the server's URLs
        raise SourceError(f"the server answers {error.code} {reason}{hint}", final=final) from error
    except URLError as error:
        why = error.reason
        if "CERTIFICATE_VERIFY_FAILED" in str(why):
            hint = "if it is yours, name the file with it in the variable SSL_CERT_FILE"
            raise SourceError(f"the server's certificate is not trusted; {hint}", final=True) from error
        if isinstance(why, ssl.SSLError):
            raise SourceError("the server does not answer in HTTPS") from error
        raise SourceError(_words(why), unreachable=isinstance(why, OSError)) from error
    except OSError as error:  # while it answers
        raise SourceError(_words(error)) from error
    except (InvalidURL, ValueError) as error:  # whose text may quote a password
        raise SourceError(url_fault(url) or "this URL cannot be asked for", final=True) from error
    except HTTPException as error:
        raise SourceError("the server does not answer in HTTP") from error


def chunks_of(response: HTTPResponse) -> Iterator[bytes]:
    """Yields what arrives, as it arrives.

    Raises:
        SourceError: if nothing arrives for the response's timeout, or the connection is lost.
    """
    while True:
        try:
            chunk = response.read1(_CHUNK)
        except (OSError, HTTPException, ValueError) as error:  # ValueError: closed by another thread
            raise SourceError(_words(error)) from error
        if not chunk:
            return
        yield chunk


def fetch(url: str, *, most_bytes: int, seconds: float, timeout: float = 10.0) -> bytes:
    """Returns what a URL holds.

    Args:
        url: an http or https URL.
        most_bytes: more are refused.
        seconds: for all of it.
        timeout: seconds for connecting, and for every wait for bytes.

    Raises:
        SourceError: if it cannot be read.
    """
    end = time.monotonic() + seconds
    data = bytearray()
    with open_url(url, timeout=timeout) as response:
        for chunk in chunks_of(response):
            data += chunk
            if len(data) > most_bytes:
                raise SourceError(f"more than {most_bytes >> 20} MB")
            if time.monotonic() > end:
                raise SourceError(f"not complete after {seconds:.0f} s")
    return bytes(data)


def _words(error: object) -> str:
    if isinstance(error, TimeoutError):
        return "no answer"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return without_secrets(" ".join(text.split())).lower()
