"""What people are shown of a message: readable, harmless, short."""

import pytest

from services.parser.summary import SHOWN, readable
from tests.fuzz.watch import Memory


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b" plain ", "plain"),
        (b"", ""),
        (b" a\tb", "a b"),
        (b" =?utf-8?B?R3LDtsOfZQ==?=", "Größe"),
        (b" =?iso-8859-1?Q?caf=E9_noir?=", "café noir"),
        (b" =?utf-8?Q?one?= =?utf-8?Q?_two?=", "one two"),
        (b" =?utf-8?Q?=C3=A9?= <e@example.org>", "é <e@example.org>"),
        (b" =?utf-8*fr?Q?caf=C3=A9?=", "café"),
        ("Grüße".encode(), "Grüße"),
        (b"caf\xe9", "café"),
        (b" =?x-unknown?Q?caf=E9?=", "café"),
        (b" =?hex?Q?41?=", "41"),
        (b" =?utf-8?B?A?=", "=?utf-8?B?A?="),
        (b" =?hex?Q?caf=E9?=", "café"),
        (b" =?unicode_escape?Q?=5Cu0041?=", "\\u0041"),
        (b" =?idna?Q?xn--a?=", "xn--a"),
        (b" =?utf-8?Q?=FF?=", "\N{REPLACEMENT CHARACTER}"),
        (b" \\u12 =?utf-8?Q?x?=", "\\u12 x"),
        (b" C:\\users\\new =?utf-8?q?=C3=A9?=", "C:\\users\\new é"),
        (b" =?utf-8?q?C:=5Cusers=5Cnew?=", "C:\\users\\new"),
        (b" \\x41 =?iso-8859-1?q?x?= \\N{BULLET}", "\\x41 x \\N{BULLET}"),
        ("Öl \\u0041 =?utf-8?q?x?= – 世".encode(), "Öl \\u0041 x – 世"),
        (b"=?utf-8?Q?=E4=B8?= =?UTF-8?Q?=96?=", "世"),
        (b"=?utf-8?B?5Lg=?=\t=?utf-8?B?lg==?=", "世"),
        (b"=?utf-8?Q?a?==?iso-8859-1?Q?=E9?=", "aé"),
        (b"a=?utf-8?Q?b?=c", "abc"),
        (b"=?utf-8?Q?a_b?= c =?utf-8?B?!?= d", "a b c  d"),
        (b"=?utf-8?Q?what?_now?=", "what? now"),
        ("Grüße, Köln".encode() + b" \xe9", "Grüße, Köln \N{REPLACEMENT CHARACTER}"),
        ("Grüß".encode()[:-1] + b" und mehr", "Gr\u00fc\N{REPLACEMENT CHARACTER} und mehr"),
        (b"caf\xe9 cr\xe8me", "café crème"),
        (b"\x93quoted\x94 \x96 \x80", "“quoted” – €"),
        ("a\u00a0b\u2003c\u202fd\u3000e".encode(), "a b c d e"),
        ("\u00a0a\u00a0".encode(), "a"),
        ("\ufeffa\u200b\u200c\u00adb\u200f\u2060".encode(), "ab"),
        (b"=?utf-8?Q?=C2=A0a=C2=A0b?=", "a b"),
        (b"=?windows-1252?Q?a=A0b?=", "a b"),
        (b"=?us-ascii?Q?caf=E9?=", "café"),
        (b"=?us-ascii?Q?caf=C3=A9?=", "café"),
        (b"a\x1b[31mred", "a\\x1b[31mred"),
        (b"a\rb", "a\\rb"),
        (b"a\0b", "a\\x00b"),
        (b" =?utf-8?Q?a=0D=0Ab=1B?=", "a\\r\\nb\\x1b"),
        (b" =?utf-7?Q?+2AA-?=", "\\ud800"),
        ("a\N{RIGHT-TO-LEFT OVERRIDE}b".encode(), "a\\u202eb"),
    ],
)
def test_readable(body: bytes, shown: str) -> None:
    assert readable(body) == shown


@pytest.mark.parametrize(
    ("names", "raw", "shown"),
    [
        ("iso-8859-1 latin1 ISO_8859-1:1987 iso8859-1 iso88591 x-ansi windows-1252", b"\xe9", "é"),
        ("cp1252 cp-1252 win-1252 windows1252 x-cp1252 WINDOWS_1252 ms-1252", b"\x93\xe9", "“é"),
        ("iso-8859-1 us-ascii ansi_x3.4-1968", b"\x93", "“"),
        ("windows-1251 cp1251 win1251 cp-1251 x-cp1251", b"\xcf\xf0\xe8", "При"),
        ("cp850 cp-850 ibm850 IBM-850 dos-850 850", b"\x81", "ü"),
        ("cp-737 ibm737", b"\x80", "Α"),
        ("cp037 ibm037 ebcdic-cp-us", b"\x81", "a"),
        ("iso-8859-8 iso-8859-8-i ISO-8859-8-E visual logical windows-1255", b"\xf9", "ש"),
        ("iso-8859-9 windows-1254 latin5", b"\xfd", "ı"),
        ("tis-620 iso-8859-11 windows-874 x-cp874", b"\xa1", "ก"),
        ("iso-8859-15 latin-9 iso_8859_15", b"\xa4", "€"),
        ("utf-8 utf8 utf8mb4 utf-8mb3 x-utf-8 utf-8n unicode-1-1-utf-8 UTF_8", b"\xc3\xa9", "é"),
        ("utf-7 unicode-1-1-utf-7 x-unicode-1-1-utf-7", b"+AOk-", "é"),
        ("utf-16 ucs-2 unicode", b"\xff\xfe\xe9\x00", "é"),
        ("gb2312 gbk gb18030 cn-gb x-gbk gb_2312-80 euc-cn windows-936", b"\x96\x70", "杙"),
        ("gb2312 gbk gb18030 hz", b"abc", "abc"),
        ("big5 cn-big5 x-big5 x-x-big5 big5-hkscs", b"\xa4\xa4", "中"),
        ("ks_c_5601-1987 ks_c_5601 KSC5601 euc-kr", b"\x81\x41", "갂"),
        ("uhc windows-949 cp949 x-windows-949", b"\x81\x41", "갂"),
        ("shift_jis shift-jis sjis x-sjis windows-31j cp932 ms932 ms_kanji", b"\x87\x40", "①"),
        ("euc-jp x-euc-jp", b"\xc6\xfc", "日"),
        ("iso-2022-jp iso-2022-jp-ms x-iso-2022-jp cp50220", b"\x1b$BF|\x1b(B", "日"),
        ("koi8-r koi8r", b"\xcb", "к"),
        ("koi8-u koi8-ru x-koi8-u", b"\xa4", "є"),
        ("macintosh x-mac-roman mac", b"\x8a", "ä"),
        ("x-mac-cyrillic maccyrillic", b"\x80", "А"),
        ("x-mac-ce", b"\x8a", "ä"),
        ("x-unknown unknown-8bit default 8bit none", b"\xc3\xa9", "é"),
        ("x-unknown unknown-8bit iso-8859-12 cp99999 x-x-x", b"\xe9", "é"),
    ],
)
def test_charsets_by_the_names_that_mail_has_for_them(names: str, raw: bytes, shown: str) -> None:
    quoted = b"".join(b"=%02X" % byte for byte in raw)
    for name in (*names.split(), *names.upper().split()):
        assert readable(b"=?%s?Q?%s?=" % (name.encode(), quoted)) == shown, name


@pytest.mark.parametrize("body", [b"x" * 100_000, "ü".encode() * 100_000, b"\x01" * 100_000])
def test_a_long_field_is_cut(body: bytes) -> None:
    shown = readable(body)
    assert shown.endswith("…")
    assert len(shown) <= SHOWN * 4 + 1


def test_a_charset_that_nobody_knows_is_not_remembered() -> None:
    memory = Memory()
    for number in range(1_000):
        assert readable(b"=?x-%d?Q?caf=E9?=" % number) == "café"
    memory.check()


def test_only_the_beginning_of_a_long_field_is_decoded() -> None:
    for words, end in ((50, "a tail"), (500, "a")):
        body = b"=?utf-8?Q?a?= " + b"=?utf-8?Q??= " * words + b"tail"
        assert readable(body).startswith(end)
        assert ("tail" in readable(body)) == (end == "a tail")


def test_a_field_is_cut_between_characters() -> None:
    assert readable("世".encode() * 5_000) == "世" * SHOWN + "…"
