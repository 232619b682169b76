"""Damaged and hostile versions of a file, by its structure: bytes, JSON, protobuf, zip. The same number, the same file.

Every mutator takes what a good file holds and a `random.Random`, and returns bytes. Nothing here knows the readers.
"""

from __future__ import annotations

import copy
import io
import json
import random
import zipfile
from collections.abc import Callable
from typing import Any

INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
"""Where sizes and signs go wrong."""


def mutate_bytes(content: bytes, generator: random.Random) -> bytes:
    """Flip, overwrite, insert, delete, repeat or cut, one to four times, half of them near the beginning."""
    data = bytearray(content)
    for _ in range(generator.randint(1, 4)):
        size = len(data)
        if size < 2:
            return bytes(data)
        place = generator.randrange(min(size, 256) if generator.random() < 0.5 else size)
        kind = generator.randrange(7)
        if kind == 0:
            data[place] ^= 1 << generator.randrange(8)
        elif kind == 1:
            data[place] = generator.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 2:
            width = generator.choice((2, 4, 8))
            value = generator.choice(INTERESTING) & (1 << 8 * width) - 1
            data[place : place + width] = value.to_bytes(width, generator.choice(("little", "big")))
        elif kind == 3:
            data[place:place] = generator.randbytes(generator.randint(1, 16))
        elif kind == 4:
            del data[place : place + generator.randint(1, 64)]
        elif kind == 5:
            end = min(size, place + generator.randint(1, 64))
            data[place:place] = data[place:end] * generator.randint(1, 8)
        else:
            del data[place:]
    return bytes(data)


def mutate_json(value: Any, generator: random.Random) -> bytes:
    """Change one to three values of a JSON document, or now and then its text."""
    changed = copy.deepcopy(value)
    for _ in range(generator.randint(1, 3)):
        changed = _with_one_change(changed, generator)
    text = json.dumps(changed).encode()
    return mutate_bytes(text, generator) if generator.random() < 0.15 else text


def _with_one_change(value: Any, generator: random.Random) -> Any:
    places = list(_places(value))
    if not places:
        return _other_value(value, generator)
    holder, key = generator.choice(places)
    kind = generator.random()
    if kind < 0.15:
        del holder[key]
    elif kind < 0.22 and isinstance(holder, dict):
        holder[_other_text(str(key), generator)] = holder.pop(key)
    elif kind < 0.3:
        other_holder, other_key = generator.choice(places)
        holder[key] = copy.deepcopy(other_holder[other_key])
    else:
        holder[key] = _other_value(holder[key], generator)
    return value


def _places(value: Any) -> Any:
    if isinstance(value, (dict, list)):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def _other_value(value: Any, generator: random.Random) -> Any:
    if isinstance(value, str) and generator.random() < 0.5:
        return _other_text(value, generator)
    numbers = [0, -1, 1, 0.5, -0.0, 2**31, -(2**63), 2**64, 10**400, 1e308, 1e-320, float("nan"), float("inf")]
    nested: Any = "x"
    for _ in range(generator.choice((3, 300))):
        nested = [nested] if generator.random() < 0.5 else {"x": nested}
    others = [*numbers, *numbers, None, True, False, "", "x", "0", [], {}, [value], {"x": value}, [0] * 10_000, nested]
    return generator.choice(others)


def _other_text(text: str, generator: random.Random) -> str:
    others = ["", "../" + text, "/" + text, text + "\0", "../../../../etc/passwd", "\ud800", "x" * 5000, "\n", ".."]
    return generator.choice([*others, text.upper(), text[::-1], text + "x"])


def mutate_protobuf(content: bytes, generator: random.Random) -> bytes:
    """Change fields of a protobuf message by its wire format, at any depth; the lengths around them stay right.

    Source: Protocol Buffers encoding: a key is field number << 3 | wire type; 0 varint, 1 64 bits, 2 length, 5 32 bits.
    """
    data = content
    for _ in range(generator.randint(1, 3)):
        data = _message_with_one_change(data, generator)
    return data


def _message_with_one_change(data: bytes, generator: random.Random) -> bytes:
    fields = _fields(data)
    if not fields:
        return mutate_bytes(data, generator)
    place = generator.randrange(len(fields))
    number, wire, value = fields[place]
    kind = generator.random()
    inner = _fields(value) if wire == 2 and isinstance(value, bytes) and len(value) > 2 else None
    if inner and kind < 0.75:
        fields[place] = (number, wire, _message_with_one_change(value, generator))
    elif kind < 0.8:
        del fields[place]
    elif kind < 0.84:
        fields.insert(generator.randrange(len(fields) + 1), fields[place])
    elif kind < 0.87:
        other = generator.randrange(len(fields))
        fields[place], fields[other] = fields[other], fields[place]
    elif kind < 0.9:
        fields[place] = (generator.randint(1, 30), wire, value)
    elif isinstance(value, int):
        fields[place] = (number, wire, generator.choice(INTERESTING))
    else:
        fields[place] = (number, wire, mutate_bytes(value, generator) if len(value) > 1 else b"\xff" * 5)
    return b"".join(_encoded(*field) for field in fields)


Field = tuple[int, int, Any]


def _fields(data: bytes) -> list[Field] | None:
    """Return the fields of a message, None where these bytes are none."""
    fields: list[Field] = []
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        number, wire = key >> 3, key & 7
        if not 0 < number < 1000:
            return None
        if wire == 0:
            value, place = _varint(data, place)
            fields.append((number, wire, value))
            continue
        if wire == 2:
            size, place = _varint(data, place)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            return None
        if place + size > len(data):
            return None
        fields.append((number, wire, data[place : place + size]))
        place += size
    return fields


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(data) and shift < 70:
        value |= (data[place] & 127) << shift
        place, shift = place + 1, shift + 7
        if data[place - 1] < 128:
            break
    return value, place


def _encoded(number: int, wire: int, value: Any) -> bytes:
    key = _encoded_varint(number << 3 | wire)
    if wire == 0:
        return key + _encoded_varint(value)
    return key + (_encoded_varint(len(value)) if wire == 2 else b"") + value


def _encoded_varint(value: int) -> bytes:
    out = bytearray()
    value &= 2**64 - 1
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def mutate_zip(content: bytes, generator: random.Random, mutate_member: Callable[[str, bytes], bytes]) -> bytes:
    """Change members of an archive, or now and then the archive's own bytes."""
    if generator.random() < 0.3:
        return mutate_bytes(content, generator)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(member.filename, archive.read(member)) for member in archive.infolist()]
    place = generator.randrange(len(members))
    name, data = members[place]
    kind = generator.random()
    if kind < 0.1:
        del members[place]
    elif kind < 0.2:
        members[place] = (_other_text(name, generator).replace("\ud800", "s"), data)
    elif kind < 0.25:
        members.append((name, mutate_member(name, data)))
    else:
        members[place] = (name, mutate_member(name, data))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", generator.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data)
    return stream.getvalue()
