"""Where images come from: one iterator over files, folders, patterns, lists, videos, cameras, pipes and URLs."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from yolorep.console import say
from yolorep.errors import UserError, suggest
from yolorep.files import distinct_files, is_device_or_pipe
from yolorep.images import IMAGE_SUFFIXES, Note, passed_over
from yolorep.media.connections import Patience, connect
from yolorep.media.frames import VIDEO_SUFFIXES, Frame, Unreadable, is_image, quiet_videos, read_frames
from yolorep.media.readers import Connect
from yolorep.media.screen import SCREEN, open_screen
from yolorep.media.stdin import open_stdin
from yolorep.media.streams import Stream, read_together
from yolorep.media.urls import (
    URL_SCHEMES,
    WEB_SCHEMES,
    is_camera,
    is_stream,
    scheme_of,
    suffix_of,
    url_fault,
    without_secrets,
)
from yolorep.texts import NotText, read_text

LIST_SUFFIXES = frozenset({".txt", ".streams"})


def open_source(
    source: str | Path | Sequence[str],
    *,
    vid_stride: int = 1,
    reconnect_timeout: float | None = None,
    note: Note | None = None,
    patience: Patience | None = None,
    connect: Connect = connect,
) -> Iterator[Frame | Unreadable]:
    """Reads whatever ``source`` names.

    Of a live source (a camera, or a URL that has no number of frames) only the newest frame is kept, with the time it
    was captured; lost, it is connected again, whatever that takes. Those of a list are read side by side, one frame in
    turn, and beside them the files of the list in their order. Files lose no frame.

    Args:
        source: an image or video file; a folder of these (not its subfolders; other files are passed over); a glob
            pattern; a ``.txt`` or ``.streams`` file with one path, URL or camera index a line (paths relative to the
            list's folder or the working directory); a camera index such as ``0``; a URL OpenCV can open (http,
            rtsp, rtmp, …); ``-`` for what is piped into the program: one image, JPEGs one behind another, which are
            read as they arrive, or another video, which is read to its end before its first frame comes; ``screen``,
            unless a file is called that, for screenshots without end; or several URLs and camera indices. Nothing else
            is ever fetched from a network.
        vid_stride: yield every N-th frame of videos and streams, the first one included.
        reconnect_timeout: seconds without a frame after which a live source is given up; for ever if None.
        note: called with a line about files of a folder that are passed over, with one about unusual numbers in
            images, how they are taken, and, at the iterator's turn, whenever a live source is connected, lost, back, …
            The last are printed if it is None.
        patience: how long live sources are waited for.
        connect: opens live sources.

    Returns:
        An iterator over frames, those of one video consecutive unless there are live sources, in sorted order of the
        paths. An input that cannot be read yields one ``Unreadable`` and the iteration goes on. Paths are without the
        passwords and tokens of URLs.

    Raises:
        UserError: at the call, if ``source`` names nothing; it says what was tried.
    """
    if vid_stride < 1:
        raise UserError(f"--vid-stride {vid_stride}: expected 1 or more (1 looks at every frame)")
    if reconnect_timeout is not None and not reconnect_timeout >= 0:
        raise UserError(f"--reconnect-timeout {reconnect_timeout}: expected seconds, 0 or more")
    quiet_videos()
    sources = [str(source)] if isinstance(source, str | Path) else list(dict.fromkeys(source))
    # All of it here, not at the first frame: a wrong source must fail before a model is loaded.
    if sources == ["-"]:
        return open_stdin(vid_stride=vid_stride)
    if len(sources) == 1 and _is_screen(sources[0]):
        return open_screen()
    entries = [entry for one in sources for entry in _find(one, note)]
    shown = _shown(entries)
    said: set[str] = set()

    def once(path: str, line: str) -> None:
        if note and line not in said:
            note(f"{path}: {line}")
        said.add(line)

    def opened(position: int, entry: str | Unreadable) -> Iterator[Frame | Unreadable] | Stream:
        if isinstance(entry, Unreadable) or not is_stream(entry) or is_image(entry):
            return _read(entry, position, vid_stride, once)
        return Stream(
            entry,
            path=shown[entry],
            vid_stride=vid_stride,
            reconnect_timeout=reconnect_timeout,
            expect_file=scheme_of(entry) in WEB_SCHEMES and suffix_of(entry) in VIDEO_SUFFIXES,
            patience=patience,
            connect=connect,
        )

    everything = [opened(position, entry) for position, entry in enumerate(entries)]
    # Live sources begin at once, not behind the files before them.
    everything.sort(key=lambda one: not (isinstance(one, Stream) and one.settled))
    return read_together(everything, report=note or say)


def is_one_image(source: str | Path) -> bool:
    """Whether ``source`` is the path or URL of an image: one frame, where everything else is a sequence of them."""
    path = str(source) if is_stream(str(source)) else os.path.expanduser(source)
    return is_image(path) and (is_stream(path) or os.path.isfile(path))


def is_live(source: str | Path) -> bool:
    """Whether ``source`` has no end: a camera, the screen, a URL that is not of a file, or a list of any such."""
    source = str(source)
    if suffix_of(source) in LIST_SUFFIXES and "://" not in source and os.path.isfile(os.path.expanduser(source)):
        return any(isinstance(entry, str) and is_live(entry) for entry in _find(source, None))
    return _is_screen(source) or is_camera(source) or scheme_of(source) in URL_SCHEMES - WEB_SCHEMES


def _read(
    entry: str | Unreadable, position: int, vid_stride: int, note: Callable[[str, str], None]
) -> Iterator[Frame | Unreadable]:
    if isinstance(entry, Unreadable):
        yield entry
        return
    path = without_secrets(entry) if is_stream(entry) else entry
    for item in read_frames(entry, position=position, vid_stride=vid_stride, note=partial(note, path)):
        yield item if path == entry else replace(item, path=path)


def _shown(entries: list[str | Unreadable]) -> dict[str, str]:
    """What the frames of each URL say they come from: no password, and no two the same."""
    shown: dict[str, str] = {}
    for entry in entries:
        if isinstance(entry, str) and is_stream(entry):
            free, number = without_secrets(entry), 1
            while free in shown.values():
                number += 1
                free = f"{without_secrets(entry)}#{number}"
            shown[entry] = free
    return shown


def _is_screen(source: str) -> bool:
    return source == SCREEN and not os.path.exists(source)


def _find(source: str, note: Note | None) -> list[str | Unreadable]:
    """Lists the inputs ``source`` names."""
    if is_stream(source):
        if fault := url_fault(source):
            raise UserError(f"source '{without_secrets(source)}': {fault}")
        return [source]
    path = os.path.expanduser(source)
    if os.path.isdir(path):
        files = [os.path.join(path, name) for name in os.listdir(path)]
        media = _media(f"folder '{source}'", files)
        if note and (others := passed_over(path for path in files if not _is_media(path))):
            note(f"{source}: {others}")
        return media
    if os.path.isfile(path):
        if suffix_of(path) in LIST_SUFFIXES:
            return _find_listed(path)
        if _is_media(path) or is_image(path):
            return [path]
        raise UserError(
            f"{source}: expected an image ({_known(IMAGE_SUFFIXES)}), a video ({_known(VIDEO_SUFFIXES)}) "
            f"or a list ({_known(LIST_SUFFIXES)}), found a file with suffix '{suffix_of(path)}'"
        )
    if is_device_or_pipe(path):
        raise UserError(
            f"{source}: expected a file or folder, found a device or a pipe; "
            "name a camera by its number, such as 0, and read a pipe with -"
        )
    if glob.has_magic(path) and (matches := glob.glob(path, recursive=True)):
        return _media(f"pattern '{source}'", matches)
    raise UserError(_not_found(source, path))


def _find_listed(path: str) -> list[str | Unreadable]:
    try:
        lines = [line.strip() for line in read_text(path).splitlines()]
    except (OSError, NotText) as error:
        raise UserError(f"{path}: expected text, one path or URL a line; cannot read it ({error})") from error
    folder = os.path.dirname(path)
    entries: list[str | Unreadable] = []
    files: set[str] = set()
    for line in dict.fromkeys(line for line in lines if line and not line.startswith("#")):
        candidates = [os.path.join(folder, os.path.expanduser(line)), os.path.expanduser(line)]
        found = next((candidate for candidate in candidates if os.path.exists(candidate)), None)
        if is_stream(line):
            fault = url_fault(line)
            entries.append(Unreadable(without_secrets(line), fault) if fault else line)
        elif found is None:
            reason = f"listed in {path}, found neither beside it nor in the working directory"
            entries.append(Unreadable(without_secrets(line), reason))
        elif not (_is_media(found) or (os.path.isfile(found) and is_image(found))):
            entries.append(Unreadable(without_secrets(line), f"listed in {path}, is neither an image nor a video"))
        elif (real := os.path.realpath(found)) not in files:
            files.add(real)
            entries.append(found)
    if not entries:
        raise UserError(f"{path}: expected one path, URL or camera index a line, found none")
    return entries


def _not_found(source: str, path: str) -> str:
    """Says everything that was tried, and what exists instead."""
    scheme = scheme_of(source)
    shown = without_secrets(source)
    tried = [
        f"file or folder ({os.path.abspath(without_secrets(path))} does not exist)",
        "glob pattern (matches nothing)" if glob.has_magic(path) else "glob pattern (no *, ? or [ in it)",
        "camera index (not a number)",
        f"URL ('{scheme}' is none of {_known(URL_SCHEMES)})" if scheme else "URL (no '://' in it)",
    ]
    missing = Path(path)
    while not missing.parent.is_dir() and missing.parent != missing:
        missing = missing.parent
    hint = suggest(missing.name, os.listdir(missing.parent)) if missing.parent.is_dir() else ""
    if missing != Path(path):
        hint = f"; '{missing.parent}' holds no '{missing.name}'{hint}"
    return f"source '{shown}' was not found. Tried: {', '.join(tried)}{hint}"


def _media(where: str, paths: list[str]) -> list[str | Unreadable]:
    """Picks the images and videos, sorted."""
    media: list[str | Unreadable] = [*distinct_files(path for path in sorted(paths) if _is_media(path))]
    if not media:
        raise UserError(
            f"{where}: expected images ({_known(IMAGE_SUFFIXES)}) or videos ({_known(VIDEO_SUFFIXES)}), "
            f"found {len(paths)} other entries"
            if paths
            else f"{where}: expected images or videos, found it empty"
        )
    return media


def _is_media(path: str) -> bool:
    return suffix_of(path) in IMAGE_SUFFIXES | VIDEO_SUFFIXES and os.path.isfile(path)


def _known(names: frozenset[str]) -> str:
    return " ".join(sorted(names))
