"""Names of the files of an export: the ending from the bytes, folders that no two labels share.

A label is anybody's text. On some disk or other "Cat" and "cat" are one folder, CON is a device,
"a." is "a", and 256 bytes are too many; so what could be confused gets a part of its hash.
"""

import hashlib
import re
import unicodedata

_ENDINGS = (
    (rb"\xff\xd8\xff", ".jpg"),
    (rb"\x89PNG\r\n", ".png"),
    (rb"GIF8", ".gif"),
    (rb"BM", ".bmp"),
    (rb"RIFF.{4}WEBP", ".webp"),
    (rb"II\*\x00|MM\x00\*", ".tif"),
    (rb"P[14]\s", ".pbm"),
    (rb"P[25]\s", ".pgm"),
    (rb"P[36]\s", ".ppm"),
    (rb".{4}ftyp(hei|hev|mif)", ".heic"),
    (rb".{4}ftypavif", ".avif"),
    (rb"RIF[FX].{4}WAVE|RF64", ".wav"),
    (rb"riff", ".w64"),
    (rb"fLaC", ".flac"),
    (rb"OggS", ".ogg"),
    (rb"FORM.{4}AIF", ".aiff"),
    (rb"\.snd", ".au"),
    (rb"caff", ".caf"),
    (rb"ID3|\xff[\xe2\xe3\xf2\xf3\xfa\xfb]", ".mp3"),
    (rb"\x93NUMPY", ".npy"),
)
_FORMATS = tuple((re.compile(begin, re.DOTALL), suffix) for begin, suffix in _ENDINGS)
#: Names that mean a device on Windows, whatever their ending.
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
_LONGEST = 80  # bytes: disks that encrypt names hold 143


def ending(payload: bytes) -> str:
    """The ending that says what the bytes begin as; ".bin" for what is not known."""
    return next((suffix for begin, suffix in _FORMATS if begin.match(payload)), ".bin")


class Folders:
    """A folder for each label: as like it as a name can be, and never that of another label.

    reserved: names that no label gets. The same labels in the same order give the same folders.
    """

    def __init__(self, *reserved: str) -> None:
        self._taken = {_key(name) for name in reserved}
        self._names: dict[str, str] = {}

    def of(self, label: str) -> str:
        """The name of its folder."""
        if label not in self._names:
            name = safe_name(label)
            digest, used = hashlib.sha256(label.encode("utf-8", "backslashreplace")).hexdigest(), 8
            unique = name
            while _key(unique) in self._taken:
                unique, used = f"{name}-{digest[:used]}", used + 8
            self._taken.add(_key(unique))
            self._names[label] = unique
        return self._names[label]

    @property
    def renamed(self) -> dict[str, str]:
        """The labels whose folders have another name, and that name."""
        return {label: name for label, name in self._names.items() if name != label}


def safe_name(text: str) -> str:
    """A name that every disk and shell takes, at most 80 bytes; others may have the same."""
    name = unicodedata.normalize("NFC", text)
    name = "".join("_" if c in '<>:"/\\|?*' or not c.isprintable() else c for c in name)
    name = name.encode()[:_LONGEST].decode("utf-8", "ignore").strip(" .")
    if name.startswith(("-", "~", "$")):
        name = f"_{name[1:]}"
    return f"_{name}" if not name or _DEVICES.fullmatch(name) else name


def _key(name: str) -> str:
    """The same for names that some disk takes for the same."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
