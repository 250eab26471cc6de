"""Encoding of npz files: uncompressed zip archives of npy files.

`numpy.savez` takes longer than a small model, because zipfile creates several objects for each member.
"""

import functools
import io
import math
import struct
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.format import write_array_header_1_0
from numpy.typing import NDArray

#: Largest total size of the arrays, in bytes, that fits the 32-bit zip format along with its headers.
MAX_ZIP32_BYTES = (1 << 32) - (1 << 20)
# Records of the zip format: PKWARE APPNOTE 6.3, sections 4.3.7, 4.3.12 and 4.3.16.
LOCAL_HEADER, CENTRAL_HEADER = struct.Struct("<4s5H3L2H"), struct.Struct("<4s6H3L5H2L")
END_RECORD = struct.Struct("<4s4H2LH")
#: Version 2.0, no flags, stored, 00:00 on 1980-01-01.
COMMON_FIELDS = (20, 0, 0, 0, 0x21)
CRC = struct.Struct("<L")
#: Position of the checksum in each header, in bytes.
LOCAL_CRC_OFFSET, CENTRAL_CRC_OFFSET = 14, 16


def encode_npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Encode named arrays as `numpy.savez` does."""
    if sum([array.nbytes for array in arrays.values()]) > MAX_ZIP32_BYTES:
        file = io.BytesIO()
        np.savez(file, **arrays)  # type: ignore[arg-type]
        return file.getvalue()
    members, end = _layout(tuple([(name, array.dtype, array.shape) for name, array in arrays.items()]))
    files: list[bytes] = []
    directory: list[bytes] = []
    for member, array in zip(members, arrays.values(), strict=True):
        values = array.tobytes()
        crc = CRC.pack(zlib.crc32(values, member.header_crc))
        files += (member.local_start, crc, member.local_end, values)
        directory += (member.central_start, crc, member.central_end)
    return b"".join((*files, *directory, end))


class _Member(NamedTuple):
    """Headers of one file of an archive, each split around its checksum."""

    local_start: bytes
    local_end: bytes  # including the npy header
    central_start: bytes
    central_end: bytes
    header_crc: int  # checksum of the npy header


@functools.lru_cache(maxsize=256)
def _layout(arrays: tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]) -> tuple[tuple[_Member, ...], bytes]:
    """Build the members and the end record of an archive from the name, dtype and shape of each array.

    Cached, because most responses share them.
    """
    members: list[_Member] = []
    offset = directory_bytes = 0
    for name, dtype, shape in arrays:
        path, file = f"{name}.npy".encode(), io.BytesIO()
        write_array_header_1_0(file, {"descr": dtype.str, "fortran_order": False, "shape": shape})
        header = file.getvalue()
        size = len(header) + math.prod(shape) * dtype.itemsize
        sizes = (size, size, len(path), 0)
        local = LOCAL_HEADER.pack(b"PK\3\4", *COMMON_FIELDS, 0, *sizes)
        central = CENTRAL_HEADER.pack(b"PK\1\2", 20, *COMMON_FIELDS, 0, *sizes, 0, 0, 0, 0, offset)
        members.append(
            _Member(
                local[:LOCAL_CRC_OFFSET],
                local[LOCAL_CRC_OFFSET + CRC.size :] + path + header,
                central[:CENTRAL_CRC_OFFSET],
                central[CENTRAL_CRC_OFFSET + CRC.size :] + path,
                zlib.crc32(header),
            )
        )
        offset += LOCAL_HEADER.size + len(path) + size
        directory_bytes += CENTRAL_HEADER.size + len(path)
    end = END_RECORD.pack(b"PK\5\6", 0, 0, len(arrays), len(arrays), directory_bytes, offset, 0)
    return tuple(members), end
