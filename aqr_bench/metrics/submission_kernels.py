"""The bytes of a submission's samples read into arrays, compiled; see submission_scan.py.

All in one file: numba keeps compiled code by the file that a function is in, and does not look at what it calls.
"""

from __future__ import annotations

import numpy as np
from nuscenes.eval.detection.constants import ATTRIBUTE_NAMES, DETECTION_NAMES

from aqr_bench.metrics.compiled import compiled

_ARRAYS = ("translation", "size", "rotation", "velocity")
_KEYS = (*_ARRAYS, "detection_score", "sample_token", "detection_name", "attribute_name")
_FIRST = np.array([0, 3, 6, 10, 12, 13], dtype=np.int64)  # columns of the keys that hold numbers
NUMBERS = 13
_NEEDED = 0b11101111  # every key but the score has to be there
DONE, MORE, ODD, FULL = 0, 1, 2, 3  # the object is through; cut off; not understood; no place left
_POWERS = np.array([10.0**k for k in range(23)])  # exact


def _table(names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Names as bytes one after the other, and where each begins."""
    return (
        np.frombuffer("".join(names).encode(), dtype=np.uint8),
        np.cumsum([0, *(len(name.encode()) for name in names)]),
    )


TABLES = (_POWERS, _FIRST, *_table(_KEYS), *_table(tuple(DETECTION_NAMES)), *_table(("", *ATTRIBUTE_NAMES)))


@compiled
def _which(data, start, stop, names, first):
    """Which of the names the bytes are; -1: none."""
    for k in range(len(first) - 1):
        if first[k + 1] - first[k] == stop - start:
            same = True
            for i in range(stop - start):
                if data[start + i] != names[first[k] + i]:
                    same = False
                    break
            if same:
                return k
    return -1


@compiled
def _space(data, i, stop):
    while i < stop and (data[i] == 32 or data[i] == 10 or data[i] == 13 or data[i] == 9):
        i += 1
    return i


@compiled
def _past(data, i, stop, wanted):
    """Place behind the next character that is no space, which has to be ``wanted``; or minus a state."""
    i = _space(data, i, stop)
    if i >= stop:
        return -MORE
    return i + 1 if data[i] == wanted else -ODD


@compiled
def _string(data, i, stop):
    """End of the string that begins at ``i`` (behind its quotation mark), or minus a state."""
    if data[i] != 34:
        return -ODD
    j = i + 1
    while j < stop:
        if data[j] == 34:
            return j + 1
        if data[j] == 92 or data[j] < 32:
            return -ODD
        j += 1
    return -MORE


@compiled
def _divided(m, k, powers):
    """m / 10^k rounded once, and whether that is certain; m below 2^64."""
    high = np.float64(m)
    if high >= 18446744073709551615.0:
        return 0.0, False
    whole = np.uint64(high)
    low = np.float64(m - whole) if m >= whole else -np.float64(whole - m)
    p = powers[k]
    q = high / p
    # What q * p lacks of the number, exactly (Dekker's product), then one step of correction.
    a = q * 134217729.0
    qh = a - (a - q)
    ql = q - qh
    b = p * 134217729.0
    ph = b - (b - p)
    pl = p - ph
    product = q * p
    rest = ((high - product) - (((qh * ph - product) + qh * pl + ql * ph) + ql * pl)) + low
    c = rest / p
    value = q + c
    return value, q + c * (1 + 1e-9) == value and q + c * (1 - 1e-9) == value


@compiled
def _number(data, i, stop, powers):
    """Value and end of the number at ``i``; (0, -state) if it is none; and whether it is sure to be rounded right."""
    begin = i
    negative = i < stop and data[i] == 45
    if negative:
        i += 1
    m = np.uint64(0)
    digits = 0
    seen = 0
    exponent = 0
    lead = i
    while i < stop and 48 <= data[i] <= 57:
        if digits > 0 or data[i] != 48:
            digits += 1
        if digits <= 19:
            m = m * np.uint64(10) + np.uint64(data[i] - 48)
        seen += 1
        i += 1
    if seen == 0 or (seen > 1 and data[lead] == 48):
        return 0.0, -MORE if i >= stop else -ODD, True
    whole = True
    if i < stop and data[i] == 46:
        whole = False
        i += 1
        after = 0
        while i < stop and 48 <= data[i] <= 57:
            if digits > 0 or data[i] != 48:
                digits += 1
            if digits <= 19:
                m = m * np.uint64(10) + np.uint64(data[i] - 48)
                exponent -= 1
            after += 1
            i += 1
        if after == 0:
            return 0.0, -MORE if i >= stop else -ODD, True
    if i < stop and (data[i] == 101 or data[i] == 69):
        whole = False
        i += 1
        minus = i < stop and data[i] == 45
        if i < stop and (data[i] == 45 or data[i] == 43):
            i += 1
        power = 0
        after = 0
        while i < stop and 48 <= data[i] <= 57 and after < 6:
            power = power * 10 + (data[i] - 48)
            after += 1
            i += 1
        if after == 0 or after == 6:
            return 0.0, -MORE if i >= stop else -ODD, True
        exponent += -power if minus else power
    if i >= stop:
        return 0.0, -MORE, True
    sure = digits <= 19
    value = 0.0
    if m == np.uint64(0):
        sure = True
    elif m < np.uint64(1 << 53) and 0 <= exponent <= 22:
        value = np.float64(m) * powers[exponent]
    elif m < np.uint64(1 << 53) and -22 <= exponent < 0:
        value = np.float64(m) / powers[-exponent]
    elif -22 <= exponent < 0 and sure:
        value, sure = _divided(m, -exponent, powers)
    else:
        sure = False
    if negative and not (whole and m == np.uint64(0)):
        value = -value
    return value, i if i > begin else -ODD, sure


@compiled
def _numbers(data, i, stop, count, out, column, powers, unsure, asked, row):
    """``count`` numbers in brackets into ``out``; their end, or minus a state, and how many are asked for in all."""
    i += 1
    for k in range(count):
        i = _space(data, i, stop)
        start = i
        value, i, sure = _number(data, i, stop, powers)
        if i < 0:
            return i, asked
        out[column + k] = value
        if not sure:
            if asked >= len(unsure):
                return -FULL, asked
            unsure[asked, 0], unsure[asked, 1], unsure[asked, 2], unsure[asked, 3] = row, column + k, start, i
            asked += 1
        i = _past(data, i, stop, 44 if k + 1 < count else 93)
        if i < 0:
            return i, asked
    return i, asked


@compiled
def _box(data, i, stop, begin, end, row, numbers, kinds, unsure, asked, tables):
    """One box behind its brace, of the sample whose name is ``begin`` to ``end``; its end, or minus a state."""
    powers, first, keys, key_at, names, name_at, attributes, attribute_at = tables
    had = 0
    numbers[row, 12] = -1.0
    while True:
        i = _space(data, i, stop)
        if i >= stop:
            return -MORE, asked
        j = _string(data, i, stop)
        if j < 0:
            return j, asked
        key = _which(data, i + 1, j - 1, keys, key_at)
        if key < 0:
            return -ODD, asked
        had |= 1 << key
        i = _past(data, j, stop, 58)
        if i < 0:
            return i, asked
        i = _space(data, i, stop)
        if i >= stop:
            return -MORE, asked
        if key < 4:
            if data[i] != 91:
                return -ODD, asked
            i, asked = _numbers(
                data, i, stop, first[key + 1] - first[key], numbers[row], first[key], powers, unsure, asked, row
            )
            if i < 0:
                return i, asked
        elif key == 4:
            start = i
            value, i, sure = _number(data, i, stop, powers)
            if i < 0:
                return i, asked
            numbers[row, 12] = value
            if not sure:
                if asked >= len(unsure):
                    return -FULL, asked
                unsure[asked, 0], unsure[asked, 1], unsure[asked, 2], unsure[asked, 3] = row, 12, start, i
                asked += 1
        else:
            j = _string(data, i, stop)
            if j < 0:
                return j, asked
            if key == 5:
                if j - i != end - begin:
                    return -ODD, asked
                for k in range(j - i):
                    if data[i + k] != data[begin + k]:
                        return -ODD, asked
            else:
                found = _which(data, i + 1, j - 1, names, name_at)
                if key == 7:
                    found = _which(data, i + 1, j - 1, attributes, attribute_at)
                if found < 0:
                    return -ODD, asked
                kinds[row, key - 6] = found
            i = j
        i = _space(data, i, stop)
        if i >= stop:
            return -MORE, asked
        if data[i] == 125:
            return (i + 1 if (had & _NEEDED) == _NEEDED else -ODD), asked
        if data[i] != 44:
            return -ODD, asked
        i += 1


@compiled
def read_samples(data, i, stop, opened, numbers, kinds, spans, unsure, tables):
    """Samples from ``i`` on, as many as are whole: state, place behind the last, boxes, samples, numbers to ask for.

    ``opened``: the object has just begun, no comma comes first. ``spans`` [n, 3]: name from, to, boxes up to its end.
    """
    rows = 0
    count = 0
    asked = 0
    good = i
    good_rows = 0
    good_asked = 0
    state = DONE
    while True:
        i = _space(data, i, stop)
        if i >= stop:
            state = MORE
            break
        if data[i] == 125:
            return DONE, i + 1, good_rows, count, good_asked
        if not opened:
            if data[i] != 44:
                state = ODD
                break
            i = _space(data, i + 1, stop)
            if i >= stop:
                state = MORE
                break
        if count >= len(spans):
            state = FULL
            break
        j = _string(data, i, stop)
        if j < 0:
            state = -j
            break
        begin, end = i, j
        i = _past(data, j, stop, 58)
        i = i if i < 0 else _past(data, i, stop, 91)
        if i < 0:
            state = -i
            break
        i = _space(data, i, stop)
        if i >= stop:
            state = MORE
            break
        empty = data[i] == 93
        if empty:
            i += 1
        while not empty:
            i = _past(data, i, stop, 123)
            if i < 0 or rows >= len(numbers):
                state = -i if i < 0 else FULL
                break
            i, asked = _box(data, i, stop, begin, end, rows, numbers, kinds, unsure, asked, tables)
            if i < 0:
                state = -i
                break
            rows += 1
            i = _space(data, i, stop)
            if i >= stop:
                state = MORE
                break
            if data[i] == 93:
                i += 1
                break
            if data[i] != 44:
                state = ODD
                break
            i += 1
        if state != DONE:
            break
        spans[count, 0], spans[count, 1], spans[count, 2] = begin + 1, end - 1, rows
        count += 1
        opened = False
        good, good_rows, good_asked = i, rows, asked
    return state, good, good_rows, count, good_asked
