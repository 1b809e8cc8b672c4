from __future__ import annotations

import pytest

from yolorep.media.urls import is_stream, suffix_of, url_fault, without_secrets


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://admin:pass@host:554/live?channel=1", "rtsp://***@host:554/live?channel=1"),
        ("rtsp://admin@host/live", "rtsp://***@host/live"),
        ("rtsp://admin:p@ss@host/live", "rtsp://***@host/live"),
        ("rtsp://admin:pa/ss@host/live", "rtsp://***@host/live"),
        ("http://host:8080/a@2x.mp4", "http://host:8080/a@2x.mp4"),
        ("http://host/video?token=abc&channel=1", "http://host/video?token=***&channel=1"),
        ("http://host/video?channel=1&Password=abc", "http://host/video?channel=1&Password=***"),
        ("http://host/cgi?usr=me&pwd=abc", "http://host/cgi?usr=***&pwd=***"),
        ("http://host/cgi?u=me&p=abc&port=1&pw=d", "http://host/cgi?u=***&p=***&port=1&pw=***"),
        ("http://host/v?api_key=a#access_token=b", "http://host/v?api_key=***#access_token=***"),
        ("https://host/a.mp4?X-Amz-Signature=1f&X-Amz-Date=3", "https://host/a.mp4?X-Amz-Signature=***&X-Amz-Date=3"),
        ("rtsp://host/user=admin_password=abc_channel=1.sdp", "rtsp://host/user=***"),
        ("htp://me:pass@host/a.jpg", "htp://***@host/a.jpg"),
        ("cannot read rtsp://me:pass@host/a, sorry", "cannot read rtsp://***@host/a, sorry"),
        ("http://host/?action=stream", "http://host/?action=stream"),
        ("folder/password=3.jpg", "folder/password=3.jpg"),
        ("0", "0"),
    ],
)
def test_secrets_are_hidden(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


@pytest.mark.parametrize(
    ("entry", "stream", "suffix"),
    [
        ("0", True, ""),
        ("RTSP://host/Live.SDP?a=b.c", True, ".sdp"),
        ("http://host.com", True, ""),
        ("http://host/a.MP4?x=1.jpg#y", True, ".mp4"),
        ("http://[::1/broken.jpg", True, ".jpg"),
        ("htp://host/a.jpg", False, ".jpg"),
        ("folder/a.JPG", False, ".jpg"),
    ],
)
def test_kinds_of_entries(entry: str, stream: bool, suffix: str) -> None:
    assert (is_stream(entry), suffix_of(entry)) == (stream, suffix)


HOST, PORT = "expected a URL with a host, such as", "expected a URL with a host and a port from 1 to 65535, such as"


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("http://", f"{HOST} http://host/"),
        ("https:///a.jpg?x=1", f"{HOST} https://host/"),
        ("RTSP://:554/live", f"{HOST} rtsp://host/"),
        ("rtsp://me:pass@/live", f"{HOST} rtsp://host/; write %2F, %23 and %40 for / # and @ in a password"),
        ("rtsp://host:99999/", f"{PORT} rtsp://host:5000/"),
        ("rtsp://host:0/", f"{PORT} rtsp://host:5000/"),
        ("rtsp://host:port/", f"{PORT} rtsp://host:5000/"),
        ("rtsp://[::1/live", f"{PORT} rtsp://host:5000/"),
        ("http://my host/", f"{PORT} http://host:5000/"),
        ("http://host..com/", f"{PORT} http://host:5000/"),
        ("http://me:pa/ss@host/", f"{PORT} http://host:5000/; write %2F, %23 and %40 for / # and @ in a password"),
        ("udp://239.0.0.1", f"{PORT} udp://host:5000/"),
        ("0", ""),
        ("udp://@:1234", ""),
        ("tcp://0.0.0.0:5000?listen", ""),
        ("rtsp://[::1]:554/live", ""),
        ("rtsp://me:p@ss@host/live", ""),
        ("http://bücher.example/é a.jpg?q=ü", ""),
    ],
)
def test_urls_that_cannot_work(url: str, fault: str) -> None:
    assert url_fault(url) == fault
