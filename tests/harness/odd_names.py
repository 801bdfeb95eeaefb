"""The one list of file names that are odd: names are bytes."""

from __future__ import annotations

NAMES: dict[str, bytes] = {
    "not UTF-8": b"caf\xe9 \xff\xfe\x80.json",
    "newline": b"one\ntwo.json",
    "carriage return": b"one\rtwo.json",
    "quotes": b'it\'s "quoted".json',
    "comma": b"a,b.json",
    "255 bytes": b"n" * 250 + b".json",
    "leading dash": b"-rf.json",
    "dots": b"a...json",
    "folder of dots": b"a../b...json",
    "folder not UTF-8": b"caf\xe9 \n folder/last.json",
    "emoji": "\U0001f469\u200d\U0001f680.json".encode(),
    "composed": "\u00e9.json".encode(),
    "decomposed": "e\u0301.json".encode(),
    "spaces": b" two  spaces .json/ .json",
    "backslash": rb"caf\xe9\.json",
    "tab": b"one\ttwo.json",
    "percent": b"%s%d%(name)s{}.json",
    "escape": b"\x01\x1b[2J\x1b]0;title\x07.json",
    "turned": "\u202egnp.json".encode(),
    "variable": b"${HOME}~$(id)`id`.json",
    "one letter": b"x.json",
    "the suffix twice": b"x.json.json",
    "lone surrogate as WTF-8": b"\xed\xa0\x80.json",
    "very deep": b"/".join([b"d" * 200] * 19) + b"/deep.json",
}
