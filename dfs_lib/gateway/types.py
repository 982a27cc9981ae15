"""Content types by a file's name, and which of them a browser may show in place. A table of our own: the machine's would differ from place to place.

Whatever a browser would run or follow (HTML, SVG, XML, PDF with scripts is the browser's sandbox) is only ever downloaded.
"""

_TEXT = "txt text log md markdown rst csv tsv ini cfg conf toml yaml yml py pyi sh bash c h cc cpp hpp java go rs rb pl lua sql tex bib diff patch nfo r m"
PDF = "application/pdf"
_BY_EXTENSION = {
    **dict.fromkeys(_TEXT.split(), "text/plain; charset=utf-8"),
    "json": "application/json", "html": "text/html; charset=utf-8", "htm": "text/html; charset=utf-8", "css": "text/css", "js": "text/javascript",
    "mjs": "text/javascript", "xml": "application/xml", "svg": "image/svg+xml", "pdf": PDF,
    "png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "gif": "image/gif", "webp": "image/webp", "avif": "image/avif", "bmp": "image/bmp",
    "ico": "image/x-icon", "mp3": "audio/mpeg", "m4a": "audio/mp4", "ogg": "audio/ogg", "oga": "audio/ogg", "opus": "audio/ogg", "flac": "audio/flac",
    "wav": "audio/wav", "mp4": "video/mp4", "m4v": "video/mp4", "webm": "video/webm", "ogv": "video/ogg", "mov": "video/quicktime",
    "zip": "application/zip", "gz": "application/gzip", "tgz": "application/gzip", "tar": "application/x-tar", "7z": "application/x-7z-compressed",
    "xz": "application/x-xz", "zst": "application/zstd", "parquet": "application/vnd.apache.parquet", "wasm": "application/wasm",
}
UNKNOWN = "application/octet-stream"
_INLINE = ("text/plain", "image/png", "image/jpeg", "image/gif", "image/webp", "image/avif", "image/bmp", "image/x-icon", PDF)


def content_type(name):
    """The Content-Type of a file by its name."""
    return _BY_EXTENSION.get(name.rpartition(".")[2].lower(), UNKNOWN) if "." in name else UNKNOWN


def may_show(kind):
    """Whether a browser may show this type instead of saving it."""
    kind = kind.partition(";")[0]
    return kind in _INLINE or kind.startswith(("audio/", "video/"))


def disposition(name, shows):
    """A Content-Disposition that saves under this name, whatever is in it: an ASCII stand-in, and the true one percent-encoded (RFC 6266)."""
    stand_in = "".join(character if " " <= character < "\x7f" and character not in '"\\%' else "_" for character in name) or "file"
    encoded = "".join(chr(byte) if chr(byte).isalnum() and byte < 128 or byte in b"-._~!#$&+^`|" else f"%{byte:02X}" for byte in name.encode())
    return f"{'inline' if shows else 'attachment'}; filename=\"{stand_in}\"; filename*=UTF-8''{encoded}"
