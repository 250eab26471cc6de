"""Named arrays -> the bytes of an npz file: a zip file of npy files, none of them compressed.

numpy's own writer takes longer than the model: it makes each file of an archive through half a dozen objects.
"""

import functools
import io
import math
import struct
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Sizes that the plain format has room for; beyond, numpy writes the longer one.
PLAIN = (1 << 32) - (1 << 20)
# Of PKWARE's APPNOTE 6.3, sections 4.3.7, 4.3.12 and 4.3.16. Version 2.0, no flags, stored, 1980-01-01.
LOCAL, CENTRAL, END = struct.Struct("<4s5H3L2H"), struct.Struct("<4s6H3L5H2L"), struct.Struct("<4s4H2LH")
COMMON = (20, 0, 0, 0, 0x21)
#: The checksum, and where it is in a local header; in a central one it comes two bytes later.
CHECK, AT = struct.Struct("<L"), 14


def to_npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """As `numpy.savez` writes them, for `numpy.load` and every zip reader."""
    if sum([array.nbytes for array in arrays.values()]) > PLAIN:
        file = io.BytesIO()
        np.savez(file, **arrays)  # type: ignore[arg-type]
        return file.getvalue()
    members, end = _layout(tuple([(name, array.dtype, array.shape) for name, array in arrays.items()]))
    parts: list[bytes] = []
    listing: list[bytes] = []
    for member, array in zip(members, arrays.values(), strict=True):
        data = array.tobytes()
        check = CHECK.pack(zlib.crc32(data, member.check))
        parts += (member.before, check, member.after, data)
        listing += (member.listed, check, member.described)
    return b"".join((*parts, *listing, end))


class _Member(NamedTuple):
    """One file of an archive, all but its values and the checksum that goes between the halves of its two headers."""

    before: bytes
    after: bytes  # with the head of the npy file
    listed: bytes
    described: bytes
    check: int  # of the head of the npy file


@functools.lru_cache(maxsize=256)
def _layout(arrays: tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]) -> tuple[tuple[_Member, ...], bytes]:
    """An archive of such arrays, as far as their values do not matter; most answers are alike in that."""
    members: list[_Member] = []
    offset = listed = 0
    for name, dtype, shape in arrays:
        path, head = f"{name}.npy".encode(), _header(dtype, shape)
        size = len(head) + math.prod(shape) * dtype.itemsize
        sizes = (size, size, len(path), 0)
        local = LOCAL.pack(b"PK\3\4", *COMMON, 0, *sizes)
        central = CENTRAL.pack(b"PK\1\2", 20, *COMMON, 0, *sizes, 0, 0, 0, 0, offset)
        members.append(
            _Member(
                local[:AT],
                local[AT + CHECK.size :] + path + head,
                central[: AT + 2],
                central[AT + 2 + CHECK.size :] + path,
                zlib.crc32(head),
            )
        )
        offset += LOCAL.size + len(path) + size
        listed += CENTRAL.size + len(path)
    return tuple(members), END.pack(b"PK\5\6", 0, 0, len(arrays), len(arrays), listed, offset, 0)


def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Of the npy format, for values in C order."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype.str, "fortran_order": False, "shape": shape})
    return file.getvalue()
