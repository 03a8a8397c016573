#!/usr/bin/env python3
"""Writes data/spoken_digits.ts.gz from an .npz file of the Free Spoken Digit Dataset as MFCCs.

    scripts/convert_spoken_digits.py spoken_digits_mfcc.npz data/spoken_digits.ts.gz

The .npz file holds `X` (all steps of all utterances, 13 float32 coefficients each), `lengths` (steps of
each utterance) and `y` (the digit). The .ts file holds the same float32 numbers, each with as few digits
as it takes to read the same bits back. Python's standard library is all it takes.
"""

import ast
import gzip
import io
import struct
import sys
import zipfile

CHANNELS = 13


def read_npy(data):
    """The numbers of a one- or two-dimensional little-endian array, and its shape."""
    assert data[:6] == b"\x93NUMPY", "not an .npy file"
    size, start = (struct.unpack("<H", data[8:10])[0], 10) if data[6] == 1 else (
        struct.unpack("<I", data[8:12])[0], 12)
    header = ast.literal_eval(data[start:start + size].decode("latin1"))
    assert not header["fortran_order"]
    code = {"<f4": "f", "<i8": "q"}[header["descr"]]
    body = data[start + size:]
    return struct.unpack(f"<{len(body) // struct.calcsize(code)}{code}", body), header["shape"]


def shortest(value):
    """The shortest decimal number that is this float32."""
    bits = struct.pack("<f", value)
    for digits in range(1, 10):
        text = f"{value:.{digits}g}"
        if struct.pack("<f", float(text)) == bits:
            return text
    raise ValueError(value)


def main():
    source, target = sys.argv[1:]
    with zipfile.ZipFile(source) as archive:
        (values, shape), (labels, _), (lengths, _) = (
            read_npy(archive.read(f"{name}.npy")) for name in ("X", "y", "lengths"))
    assert shape == (sum(lengths), CHANNELS) and len(labels) == len(lengths)
    text = io.StringIO()
    text.write("# Free Spoken Digit Dataset (Jackson et al.), CC BY-SA 4.0, as 13 MFCCs per step\n"
               "@problemName SpokenDigits\n@timeStamps false\n@missing false\n@univariate false\n"
               f"@dimensions {CHANNELS}\n@equalLength false\n"
               f"@classLabel true {' '.join(str(digit) for digit in range(10))}\n@data\n")
    start = 0
    for length, label in zip(lengths, labels):
        steps = values[start * CHANNELS:(start + length) * CHANNELS]
        start += length
        channels = (",".join(map(shortest, steps[c::CHANNELS])) for c in range(CHANNELS))
        text.write(f"{':'.join(channels)}:{label}\n")
    # No name and no time in the header: the same bytes whenever it is written.
    with open(target, "wb") as file:
        with gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=9, mtime=0) as out:
            out.write(text.getvalue().encode())


main()
