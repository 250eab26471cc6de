"""Named arrays -> the bytes of an npz file: a zip file of npy files, none of them compressed.

numpy's own writer takes longer than the model: it makes each file of an archive through half a dozen objects.
"""

import functools
import io
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Sizes that the plain format has room for; beyond, numpy writes the longer one.
PLAIN = (1 << 32) - (1 << 20)
# Of PKWARE's APPNOTE 6.3, sections 4.3.7, 4.3.12 and 4.3.16. Version 2.0, no flags, stored, 1980-01-01.
LOCAL, CENTRAL, END = struct.Struct("<4s5H3L2H"), struct.Struct("<4s6H3L5H2L"), struct.Struct("<4s4H2LH")
COMMON = (20, 0, 0, 0, 0x21)


def to_npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """As `numpy.savez` writes them, for `numpy.load` and every zip reader."""
    if sum(array.nbytes for array in arrays.values()) > PLAIN:
        file = io.BytesIO()
        np.savez(file, **arrays)  # type: ignore[arg-type]
        return file.getvalue()
    parts: list[bytes] = []
    listing: list[bytes] = []
    offset = 0
    for name, array in arrays.items():
        path = f"{name}.npy".encode()
        head, data = _header(array.dtype.str, array.shape), array.tobytes()
        size, check = len(head) + len(data), zlib.crc32(data, zlib.crc32(head))
        sizes = (check, size, size, len(path), 0)
        listing += (CENTRAL.pack(b"PK\1\2", 20, *COMMON, *sizes, 0, 0, 0, 0, offset), path)
        parts += (LOCAL.pack(b"PK\3\4", *COMMON, *sizes), path, head, data)
        offset += LOCAL.size + len(path) + size
    directory = b"".join(listing)
    end = END.pack(b"PK\5\6", 0, 0, len(arrays), len(arrays), len(directory), offset, 0)
    return b"".join((*parts, directory, end))


@functools.lru_cache(maxsize=256)
def _header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Of the npy format, for values in C order."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()
