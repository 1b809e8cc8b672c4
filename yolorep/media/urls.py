"""URLs of images, videos and streams: telling them apart, and showing them without their secrets."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

URL_SCHEMES = frozenset({"http", "https", "rtsp", "rtsps", "rtmp", "rtmps", "rtp", "srt", "tcp", "udp"})
WEB_SCHEMES = frozenset({"http", "https"})
#: Those that need a port, and may name no host: they listen too.
_WITH_PORT = frozenset({"rtp", "srt", "tcp", "udp"})

# All of bounded length: a text may be a line of a megabyte.
#: ``user:password@``. A password may hold ``@``, and, wrongly, ``/``: then a port that is no number gives it away.
_USER = re.compile(r"(?<=://)(?:[^/?#\s]{0,300}@|[^/@:\s]{0,100}:(?!\d+(?:[/?#]|$))[^@\s]{0,300}@)")
#: A value whose name says that it opens a door; cameras write such names into the path too.
_SECRET = re.compile(
    r"((?:(?:pass|pwd|psw|token|secret|key|sig|auth|credential|session|jwt|user|usr|login|account|code|pin)"
    r"[\w\-.%\[\]]{0,40}|(?<=[?&;])(?:p|u|pw|pas))=)[^&;#\s]+",
    re.IGNORECASE,
)
_HIDDEN = "***"


def is_stream(entry: str) -> bool:
    """Whether it is a camera index or a URL."""
    return is_camera(entry) or scheme_of(entry) in URL_SCHEMES


def is_camera(entry: str) -> bool:
    """Whether it is a camera index: a number that OpenCV can take."""
    return entry.isdecimal() and len(entry) < 10


def scheme_of(entry: str) -> str:
    """The scheme of a URL in lower case, empty if it is none."""
    return entry.partition("://")[0].lower() if "://" in entry else ""


def suffix_of(entry: str) -> str:
    """The suffix of a path or URL, in lower case and with its dot."""
    if "://" in entry:
        entry = re.split(r"[?#]", entry.partition("://")[2].partition("/")[2])[0]
    return os.path.splitext(entry)[1].lower()


def url_fault(url: str) -> str:
    """Why a URL can never be opened, whoever is asked; empty if it may be, or is a camera index."""
    if is_camera(url):
        return ""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        host.encode("idna")  # as it is looked up
    except ValueError:  # whose text may quote a password
        host, port = " ", None
    advice = "; write %2F, %23 and %40 for / # and @ in a password" if "@" in url else ""
    if re.search(r"[\s\x00-\x1f\x7f]", host) or (port is None and scheme_of(url) in _WITH_PORT) or port == 0:
        return f"expected a URL with a host and a port from 1 to 65535, such as {scheme_of(url)}://host:5000/{advice}"
    if not host and scheme_of(url) not in _WITH_PORT:
        return f"expected a URL with a host, such as {scheme_of(url)}://host/{advice}"
    return ""


def without_secrets(text: str) -> str:
    """Hides user, password and tokens of a URL, or of all URLs in a text. What is no URL stays as it is."""
    return re.sub(r"\b\w+://\S+", lambda url: _SECRET.sub(rf"\1{_HIDDEN}", _USER.sub(f"{_HIDDEN}@", url[0])), text)
