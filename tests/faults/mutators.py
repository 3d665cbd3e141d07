"""Makes hostile files from sound ones: the same seed makes the same file. Knows nothing of what reads them."""

from __future__ import annotations

import copy
import json
import math
import random
import struct
from collections.abc import Callable
from typing import Any

import yaml

TEXTS = [
    "", " ", "\0", "a\0b", "\ud800", "\u202e", "é" * 300, "x" * 5000, "..", "../..", "../../../etc/passwd", "/dev/zero",
    "/etc/passwd", "/", "~", "~nobody-here/x", "$HOME", "{}", "{0.__class__}", "%s%n", "\n", "a\nb", "\x1b[31m", "\r",
    "all", "none", "true", "nan", "inf", "-1", "1e999", "0x10", "9" * 5000, "a:b", "a,b", "a=b", "a/b", "a/b@c", "@",
    "arch:sd15", "arch:nothing", "micro-unet", "micro-clip", "adapter", "method", "<script>alert(1)</script>", "`id`",
    "'; drop table", "$(id)", "²", "١٢", "🤖", "50%", "1e3%", "first:999999999", "__class__", "__proto__",
]  # fmt: skip
NUMBERS = [
    0, 1, -1, 2, 3.5, 0.0, -0.0, 255, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**30, 10**400,
    10**9, 10**12, 1e308, -1e308, 5e-324, 1e-300, 0.1 + 0.2, math.nan, math.inf, -math.inf,
]  # fmt: skip
LITERALS: list[Any] = [None, True, False, [], {}, [[]], [None], {"": ""}, {"a": {"b": []}}]


def strange(rng: random.Random) -> Any:
    """Return a value that hardly anything expects."""
    kind = rng.randrange(6)
    if kind < 2:
        return rng.choice(TEXTS)
    if kind < 4:
        return rng.choice(NUMBERS)
    if kind == 4:
        return copy.deepcopy(rng.choice(LITERALS))
    return nested(rng.choice([2, 30, 90]), rng)


def nested(depth: int, rng: random.Random) -> Any:
    """Return lists in lists, or mappings in mappings."""
    value: Any = rng.choice([1, "x", None])
    for _ in range(depth):
        value = [value] if rng.random() < 0.5 else {rng.choice(["a", "name", "method"]): value}
    return value


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, item in items for found in _places(item, (*path, key)))]


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def _gentle(value: Any, rng: random.Random) -> Any:
    """Return a JSON-like value with some other numbers, and without some keys and items: it may well be sound."""
    if isinstance(value, dict):
        return {key: _gentle(item, rng) for key, item in value.items() if rng.random() > 0.04}
    if isinstance(value, list):
        return [_gentle(item, rng) for item in value if rng.random() > 0.04]
    if isinstance(value, bool) or not isinstance(value, int | float) or rng.random() > 0.2:
        return value
    return rng.choice([value + 1, value * 2, value / 2, float(value), str(value), 1, 7])


def tree(value: Any, rng: random.Random) -> Any:
    """Return a JSON-like value with one to three changes: other values, other types, keys gone, doubled or renamed."""
    if rng.random() < 0.3:
        return _gentle(value, rng)
    value = copy.deepcopy(value)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        places = _places(value)
        path = rng.choice(places[1:] or places)
        if not path:
            return strange(rng)
        above, key = _at(value, path[:-1]), path[-1]
        how = rng.randrange(8)
        if how <= 2:
            above[key] = strange(rng)
        elif how == 3:
            del above[key]
        elif how == 4:
            above[key] = copy.deepcopy(_at(value, rng.choice(places)))
        elif how == 5:
            above[key] = [above[key]] if rng.random() < 0.5 else {"x": above[key]}
        elif isinstance(above, list):
            above.insert(key, strange(rng) if how == 6 else copy.deepcopy(above[key]))
        else:
            name = rng.choice([*TEXTS, str(key) + "s", str(key)[:-1], 7, None, True, 1.5])
            above[name] = above.pop(key) if how == 6 else copy.deepcopy(above[key])
    return value


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Return bytes with one to four damages: flipped, overwritten, cut off, put in, doubled, swapped."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        size = len(changed)
        at, length = rng.randrange(size + 1), rng.choice([1, 1, 2, 4, 8, 64])
        how = rng.randrange(8)
        if how <= 1 and size:
            changed[at % size] ^= 1 << rng.randrange(8)
        elif how == 2:
            changed[at : at + length] = rng.randbytes(min(length, size - at))
        elif how == 3:
            del changed[at:]
        elif how == 4:
            changed[at:at] = rng.randbytes(length)
        elif how == 5:
            del changed[at : at + length]
        elif how == 6:
            changed[at:at] = changed[at : at + length]
        else:
            changed[at : at + length] = rng.choice([b"\0", b"\xff", b"\x7f"]) * min(length, size - at)
    return bytes(changed)


def json_bytes(value: Any, rng: random.Random) -> bytes:
    """Return a changed value as JSON text, or JSON text that is damaged or no JSON at all."""
    how = rng.randrange(12)
    if how == 0:
        return damaged(json.dumps(value).encode(), rng)
    if how == 1:
        return rng.choice(
            [b"", b"null", b"[" * 100_000, b'{"a":' * 50_000, b"1" * 6000, b"\xef\xbb\xbf{}", b"\xff\xfe{\0}\0", b"NaN",
             b'"\\ud800"', b'{"a": 1, "a": 2}', b"\0" * 100]
        )  # fmt: skip
    text = json.dumps(tree(value, rng))
    if how == 2 and text.startswith("{") and len(text) > 2:  # the first key stands there twice
        key, _, rest = text[1:].partition(":")
        text = f"{{{key}: {json.dumps(strange(rng))}, {key}:{rest}"
    return text.encode()


def bomb(rng: random.Random) -> str:
    """Return YAML whose aliases stand for billions of items."""
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, rng.choice([25, 60]))]
    if rng.random() < 0.4:
        lines = ["a0: &a0 {x: 1}"] + [f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 40)]
    return "\n".join(lines)


PIECES: list[Callable[[random.Random], str]] = [
    bomb,
    lambda rng: "name: !!python/object/apply:os.system ['touch pwned']",
    lambda rng: "name: !!python/name:os.system",
    lambda rng: "name: !<tag:yaml.org,2002:python/module:os> ''",
    lambda rng: f"name: !!{rng.choice(['int', 'float', 'bool', 'null', 'binary', 'timestamp', 'set', 'omap'])} "
    f"{rng.choice(['x', '[]', '{}', '2020-13-45', '0b', '[a]', '{a: 1}', '_', '!!!'])}",
    lambda rng: "fixed: " + "[" * rng.choice([50, 300, 3000]),
    lambda rng: "fixed: " + "{a: " * rng.choice([50, 300, 3000]),
    lambda rng: "fixed: " + "[" * 2000 + "]" * 2000,
    lambda rng: "- " * 3000,
    lambda rng: "? [a, b]\n: c",
    lambda rng: "? {a: {b: c}}\n: c",
    lambda rng: "a: &x {b: *x}",
    lambda rng: "? &x [*x]\n: 1",
    lambda rng: "<<: *nobody",
    lambda rng: "<<: 5",
    lambda rng: "name: one\nname: two",
    lambda rng: f"seeds: {rng.choice(['9' * 5000, '0x' + 'f' * 5000, '0b' + '1' * 9999])}",
    lambda rng: f"seeds: {rng.choice(['1:99:99', '0o7', '1_0', '.inf', '08'])}",
    lambda rng: "--- {}\n--- {}",
    lambda rng: "%YAML 9.9\n---\na: b",
    lambda rng: "%TAG ! tag:x,2000:\n---\na: !b c",
    lambda rng: "a: 2020-13-45",
    lambda rng: "a: 2020-01-01 25:61:61",
    lambda rng: "\tname: x",
    lambda rng: 'name: "\\ud800"',
    lambda rng: 'name: "\\0"',
    lambda rng: "name: |9\n  x",
    lambda rng: "\ufeffname: x",
]  # fmt: skip


def yaml_bytes(text: str, rng: random.Random) -> bytes:
    """Return a changed YAML file: its values changed, its text damaged, or a piece of hostile YAML put into it."""
    how = rng.randrange(10)
    if how <= 5:
        value = tree(yaml.safe_load(text), rng)
        try:
            changed = yaml.safe_dump(value, sort_keys=False, allow_unicode=rng.random() < 0.5)
            return changed.encode("utf-8", "surrogatepass")
        except (yaml.YAMLError, RecursionError, ValueError):
            return repr(value).encode("utf-8", "surrogatepass")
    if how <= 7:
        return damaged(text.encode(), rng)
    if how == 8:
        piece = rng.choice(PIECES)(rng)
        lines = text.splitlines()
        at = rng.choice([0, len(lines), rng.randrange(len(lines) + 1)])
        return "\n".join([*lines[:at], piece, *lines[at:]]).encode()
    return rng.choice(
        [
            rng.choice(PIECES)(rng).encode(),
            b"",
            b"\0" * 50,
            text.encode("utf-16"),
            text.encode() * 2,
            rng.randbytes(200),
        ]
    )


def safetensors_bytes(data: bytes, rng: random.Random) -> bytes:
    """Return a changed safetensors file: its header's values or length changed, or its bytes damaged."""
    size = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    how = rng.randrange(10)
    if how <= 1:
        return damaged(data, rng)
    if how == 2:
        length = rng.choice([0, 1, size - 1, size + 1, len(data), 2**31, 2**40, 2**63, 2**64 - 1, rng.randrange(2**20)])
        return struct.pack("<Q", length) + data[8:]
    if how == 3:  # numbers that are none
        body = bytearray(body)
        at = rng.randrange(max(1, len(body) - 8))
        body[at : at + 8] = struct.pack("<d", rng.choice([math.nan, math.inf]))[: len(body) - at]
        return data[: 8 + size] + bytes(body)
    if how == 4:
        body = damaged(body, rng) if rng.random() < 0.5 else body + rng.randbytes(rng.choice([1, 8, 999]))
    elif how <= 8:
        header = _header(header, len(body), rng)
    else:
        header = tree(header, rng)
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    if rng.random() < 0.1:
        text += b" " * rng.randrange(9)
    return struct.pack("<Q", len(text)) + text + body


def _header(header: dict[str, Any], size: int, rng: random.Random) -> dict[str, Any]:
    names = [name for name in header if name != "__metadata__"]
    name = rng.choice(names)
    entry = header[name]
    how = rng.randrange(7)
    if how == 0:
        types = ["F64", "F32", "F16", "BF16", "I64", "I32", "U8", "BOOL", "F8_E4M3", "C64", "F4", "X", "", 3, None]
        entry["dtype"] = rng.choice(types)
    elif how == 1:
        entry["data_offsets"] = rng.choice(
            [
                [0, 0],
                [0, size],
                [size, 0],
                [0, size + 1],
                [-1, 8],
                [2**63, 2**63 + 8],
                [2**64, 1],
                [0.5, 8],
                [0],
                "x",
                None,
            ]
        )
    elif how == 2:
        begin, end = entry["data_offsets"]
        entry["data_offsets"] = [begin + rng.choice([-8, -1, 1, 8]), end + rng.choice([-8, -1, 0, 1, 8])]
    elif how == 3:
        entry["shape"] = rng.choice(
            [
                [],
                [0],
                [2**32, 2**32],
                [2**63],
                [-1],
                [1.5],
                [1] * 70,
                ["2"],
                None,
                entry["shape"][::-1],
                [*entry["shape"], 1],
            ]
        )
    elif how == 4:
        header[rng.choice([*TEXTS, name + "x", "../" + name])] = header.pop(name)
    elif how == 5:
        other = rng.choice(names)
        header[name], header[other] = header[other], header[name]
    else:
        header["__metadata__"] = rng.choice([{}, {"a": "b"}, {"a": 1}, [], "x", None, {"a": "x" * 100_000}])
    return header
