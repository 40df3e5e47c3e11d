"""From what mail calls a charset to a codec of Python's.

Mail has names of vendors, of standards that nobody keeps apart, and mistakes; Python knows some of
them. Where a charset is the beginning of a larger one, the larger one is taken, as browsers do
(https://encoding.spec.whatwg.org/#names-and-labels): what is called ISO 8859-1 is Windows-1252 more
often than not. Python remembers every name that it was ever asked for in vain, and mail can bring
any number of them: it is asked for none but its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from encodings import normalize_encoding
from encodings.aliases import aliases
from functools import lru_cache
from typing import Final

_MODULES: Final = (
    *("cp1006", "cp720", "cp737", "cp856", "cp874", "cp875", "koi8_t", "koi8_u", "utf_8_sig"),
    *("mac_arabic", "mac_croatian", "mac_farsi", "mac_romanian"),
)
"""Codecs that Python has without any other name for them."""

_CODECS: Final = frozenset((*aliases, *aliases.values(), *_MODULES))

_NAMES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("latin_1", "latin1", "l1"), "cp1252"),
    **dict.fromkeys(("ansi", "iso_ir_100", "iso_8859_1_windows_3_1_latin_1"), "cp1252"),
    **dict.fromkeys(("tis_620", "tis620"), "cp874"),
    **dict.fromkeys(("gb2312", "gb_2312_80", "gb_2312", "euc_cn", "cn_gb"), "gb18030"),
    **dict.fromkeys(("gbk", "cp936"), "gb18030"),
    **dict.fromkeys(("big5", "cn_big5", "big5_tw", "x_x_big5"), "big5hkscs"),
    **dict.fromkeys(("euc_kr", "ks_c_5601", "ks_c_5601_1987", "ks_c_5601_1989"), "cp949"),
    **dict.fromkeys(("ks_c_5601_1992", "ksc5601", "ksc_5601", "korean", "uhc"), "cp949"),
    **dict.fromkeys(("shift_jis", "sjis", "ms_kanji", "cp31j"), "cp932"),
    **dict.fromkeys(("iso_2022_jp_ms", "cp50220", "cp50221", "cp50222"), "iso_2022_jp_ext"),
    **dict.fromkeys(("unicode_1_1_utf_7", "utf7"), "utf_7"),
    **dict.fromkeys(("unicode", "ucs_2", "iso_10646_ucs_2"), "utf_16"),
    **dict.fromkeys(("koi8r", "koi"), "koi8_r"),
    **dict.fromkeys(("koi8u", "koi8_ru"), "koi8_u"),
    **dict.fromkeys(("mac", "macintosh"), "mac_roman"),
    **dict.fromkeys(("logical", "visual"), "iso8859_8"),
    "mac_ce": "mac_latin2",
}
"""Names that are none to Python, or of less than is meant."""

_ASCII: Final = frozenset(("us_ascii", "ascii", "ansi_x3.4_1968", "us"))
"""Names of a charset that has no bytes above 0x7f: those there are of another one, mostly UTF-8."""

_LARGER: Final[Mapping[str, str]] = {"1": "cp1252", "9": "cp1254", "11": "cp874"}
"""Parts of ISO 8859, each with the code page that begins with it."""

_CODE_PAGE: Final = re.compile(r"(?:cp|ibm|dos|win|windows|ms|msdos|oem)_?(\d+j?)")
_ISO_8859: Final = re.compile(r"(?:iso_?)?8859_?(\d+)(?:_[a-z0-9].*)?")
_UTF: Final = re.compile(r"(?:unicode_1_1_)?utf_?(8|16|32)(?:_?(?:n|mb\d|bom|sig|none|strict))?")

_REMEMBERED: Final = 40
"""Characters of a name that is worth remembering: most mail has one of a handful."""


def codec_of(charset: str) -> str | None:
    """Return the name of a codec for a charset, None where nobody knows what is meant.

    Args:
        charset: as a mail names it, perhaps with a language behind it (RFC 2231 section 5).
    """
    return _found(charset) if len(charset) <= _REMEMBERED else _looked_up(charset)


def _looked_up(charset: str) -> str | None:
    name = normalize_encoding(charset.partition("*")[0].strip(" '\"")).lower()
    if name in _ASCII:
        return None
    vendors = name.removeprefix("x_")
    return _codec(name) or (None if vendors.isdecimal() else _codec(vendors))


_found: Final = lru_cache(128)(_looked_up)


def _codec(name: str) -> str | None:
    if name in _NAMES:
        return _NAMES[name]
    if (utf := _UTF.fullmatch(name)) is not None:
        return f"utf_{utf[1]}"
    if (iso := _ISO_8859.fullmatch(name)) is not None:
        return _LARGER.get(iso[1]) or _known(f"iso8859_{iso[1]}")
    if (page := _CODE_PAGE.fullmatch(name)) is not None:
        number = f"cp{page[1]}"
        return _NAMES.get(number) or _known(number) or _known(page[1])
    return _known(name) or _known(name.replace("_", ""))


def _known(name: str) -> str | None:
    return name if name in _CODECS else None
